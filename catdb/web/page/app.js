const status = await (await fetch("/api/status")).json();
document.getElementById("count").textContent = `${status.images} images`;
