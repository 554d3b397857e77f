// Before anything is drawn: the colours that were chosen the last time.
try {
  const theme = localStorage.getItem("theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // Where nothing may be stored, the system's choice stands.
}
