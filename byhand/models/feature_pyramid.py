"""A feature pyramid: maps of every scale that all know what the deepest one knows.

Lin et al., Feature Pyramid Networks for Object Detection (2017). Names and keys are those of torchvision's
``BackboneWithFPN`` and ``FeaturePyramidNetwork``.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn


class Stages(nn.Module):
    """The maps after some of a network's children, (B, C, H, W) -> {name: map}; children after the last are left out.

    ``returned`` names the children whose output is wanted, and gives each map its name. The children keep theirs, and
    so do their weights.
    """

    def __init__(self, children: Iterable[tuple[str, nn.Module]], returned: Mapping[str, str]) -> None:
        super().__init__()
        self.returned = dict(returned)
        missing = set(returned)
        for name, child in children:
            self.add_module(name, child)
            missing.discard(name)
            if not missing:
                break
        assert not missing, f"the network has no {sorted(missing)}"

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for name, child in self.named_children():
            x = child(x)
            if name in self.returned:
                maps[self.returned[name]] = x
        return maps


class FeaturePyramid(nn.Module):
    """Maps of one width from maps of several, {name: (B, Cᵢ, Hᵢ, Wᵢ)}, finest first -> the same names, C channels.

        Mᵢ = inner_i(xᵢ) + enlarged(Mᵢ₊₁),    Pᵢ = layer_i(Mᵢ);    figure 3

    inner: 1×1 convolutions, layer: 3×3; maps are enlarged to the size of the finer one by repeating pixels. With
    ``pool`` a map "pool" follows, every second pixel of the last, where the largest anchors lie (section 4.1).
    """

    def __init__(self, in_channels: Iterable[int], out_channels: int, pool: bool = True) -> None:
        super().__init__()
        self.inner_blocks, self.layer_blocks = nn.ModuleList(), nn.ModuleList()
        for channels in in_channels:
            self.inner_blocks.append(nn.Sequential(nn.Conv2d(channels, out_channels, 1)))
            self.layer_blocks.append(nn.Sequential(nn.Conv2d(out_channels, out_channels, 3, padding=1)))
        self.pool = pool
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        laterals = [inner(x) for inner, x in zip(self.inner_blocks, maps.values(), strict=True)]
        merged = laterals[-1]
        found = [self.layer_blocks[-1](merged)]
        for lateral, layer in zip(laterals[-2::-1], list(self.layer_blocks)[-2::-1], strict=True):
            merged = lateral + nn.functional.interpolate(merged, size=tuple(lateral.shape[2:]), mode="nearest")
            found.insert(0, layer(merged))
        pyramid = dict(zip(maps, found, strict=True))
        if self.pool:
            pyramid["pool"] = nn.functional.max_pool2d(found[-1], 1, 2)
        return pyramid


class Backbone(nn.Module):
    """The maps that a detector looks at, (B, 3, H, W) -> {name: (B, out_channels, Hᵢ, Wᵢ)}, finest first.

    ``body`` gives maps by name; ``fpn`` makes a pyramid of them, or is None.
    """

    def __init__(self, body: Stages, fpn: FeaturePyramid | None, out_channels: int) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels = body, fpn, out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.body(x)
        return maps if self.fpn is None else self.fpn(maps)
