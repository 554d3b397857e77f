"""The networks of ``keras.applications`` with an ImageNet head: facts, checked by ``tools/backbones``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Scale = Literal["symmetric", "caffe", "torch", "raw", "efficientnet"]
"""What a network wants its pixels to be.

========== =====================================================================================
symmetric  [-1, 1]
caffe      BGR, minus the mean (103.939, 116.779, 123.68) of ImageNet
torch      [0, 1], minus mean (0.485, 0.456, 0.406), over deviation (0.229, 0.224, 0.225)
raw        [0, 255]: the network scales inside
efficientnet  [0, 255], but Keras adds a layer to its *published* EfficientNets (and only to those)
           that divides the normalised pixels once more by the root of the deviation
           (tensorflow issue 49930); the same is had by stretching each channel about its mean
========== =====================================================================================
"""


GRAPH = 1
"""Number of the way in which pixels become vectors; it rises when the same image would get another vector."""


@dataclass(frozen=True, slots=True)
class Network:
    """One network. Its feature is the last global average pooling, or the layer named ``feature``."""

    name: str
    constructor: str
    size: int  # side of the square input, in pixels
    scale: Scale
    dimension: int
    file: str  # the name under which Keras publishes and caches its weights
    feature: str | None = None


_TF = "_weights_tf_dim_ordering_tf_kernels.h5"

NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("convnext_tiny", "ConvNeXtTiny", 224, "raw", 768, "convnext_tiny.h5"),
        Network("convnext_small", "ConvNeXtSmall", 224, "raw", 768, "convnext_small.h5"),
        Network("convnext_base", "ConvNeXtBase", 224, "raw", 1024, "convnext_base.h5"),
        Network("convnext_large", "ConvNeXtLarge", 224, "raw", 1536, "convnext_large.h5"),
        Network("convnext_xlarge", "ConvNeXtXLarge", 224, "raw", 2048, "convnext_xlarge.h5"),
        Network("densenet121", "DenseNet121", 224, "torch", 1024, "densenet121" + _TF),
        Network("densenet169", "DenseNet169", 224, "torch", 1664, "densenet169" + _TF),
        Network("densenet201", "DenseNet201", 224, "torch", 1920, "densenet201" + _TF),
        Network("efficientnet_b0", "EfficientNetB0", 224, "efficientnet", 1280, "efficientnetb0.h5"),
        Network("efficientnet_b1", "EfficientNetB1", 240, "efficientnet", 1280, "efficientnetb1.h5"),
        Network("efficientnet_b2", "EfficientNetB2", 260, "efficientnet", 1408, "efficientnetb2.h5"),
        Network("efficientnet_b3", "EfficientNetB3", 300, "efficientnet", 1536, "efficientnetb3.h5"),
        Network("efficientnet_b4", "EfficientNetB4", 380, "efficientnet", 1792, "efficientnetb4.h5"),
        Network("efficientnet_b5", "EfficientNetB5", 456, "efficientnet", 2048, "efficientnetb5.h5"),
        Network("efficientnet_b6", "EfficientNetB6", 528, "efficientnet", 2304, "efficientnetb6.h5"),
        Network("efficientnet_b7", "EfficientNetB7", 600, "efficientnet", 2560, "efficientnetb7.h5"),
        Network("efficientnet_v2_b0", "EfficientNetV2B0", 224, "raw", 1280, "efficientnetv2-b0.h5"),
        Network("efficientnet_v2_b1", "EfficientNetV2B1", 240, "raw", 1280, "efficientnetv2-b1.h5"),
        Network("efficientnet_v2_b2", "EfficientNetV2B2", 260, "raw", 1408, "efficientnetv2-b2.h5"),
        Network("efficientnet_v2_b3", "EfficientNetV2B3", 300, "raw", 1536, "efficientnetv2-b3.h5"),
        Network("efficientnet_v2_s", "EfficientNetV2S", 384, "raw", 1280, "efficientnetv2-s.h5"),
        Network("efficientnet_v2_m", "EfficientNetV2M", 480, "raw", 1280, "efficientnetv2-m.h5"),
        Network("efficientnet_v2_l", "EfficientNetV2L", 480, "raw", 1280, "efficientnetv2-l.h5"),
        Network("inception_resnet_v2", "InceptionResNetV2", 299, "symmetric", 1536, "inception_resnet_v2" + _TF),
        Network("inception_v3", "InceptionV3", 299, "symmetric", 2048, "inception_v3" + _TF),
        Network("mobilenet", "MobileNet", 224, "symmetric", 1024, "mobilenet_1_0_224_tf.h5"),
        Network(
            "mobilenet_v2",
            "MobileNetV2",
            224,
            "symmetric",
            1280,
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
        ),
        Network(
            "mobilenet_v3_large", "MobileNetV3Large", 224, "raw", 960, "weights_mobilenet_v3_large_224_1.0_float.h5"
        ),
        Network(
            "mobilenet_v3_small", "MobileNetV3Small", 224, "raw", 576, "weights_mobilenet_v3_small_224_1.0_float.h5"
        ),
        Network("nasnet_large", "NASNetLarge", 331, "symmetric", 4032, "nasnet_large.h5"),
        Network("nasnet_mobile", "NASNetMobile", 224, "symmetric", 1056, "nasnet_mobile.h5"),
        Network("resnet50", "ResNet50", 224, "caffe", 2048, "resnet50" + _TF),
        Network("resnet101", "ResNet101", 224, "caffe", 2048, "resnet101" + _TF),
        Network("resnet152", "ResNet152", 224, "caffe", 2048, "resnet152" + _TF),
        Network("resnet50_v2", "ResNet50V2", 224, "symmetric", 2048, "resnet50v2" + _TF),
        Network("resnet101_v2", "ResNet101V2", 224, "symmetric", 2048, "resnet101v2" + _TF),
        Network("resnet152_v2", "ResNet152V2", 224, "symmetric", 2048, "resnet152v2" + _TF),
        Network("vgg16", "VGG16", 224, "caffe", 4096, "vgg16" + _TF, "fc2"),
        Network("vgg19", "VGG19", 224, "caffe", 4096, "vgg19" + _TF, "fc2"),
        Network("xception", "Xception", 299, "symmetric", 2048, "xception" + _TF),
    )
}


def plain(name: str) -> str:
    """Return a name as it is compared: ``ResNet50V2``, ``resnet50v2`` and ``resnet50_v2`` are one network."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
