"""``ldeq convert``."""

from __future__ import annotations

import hashlib

from ..data import get_layout
from ..engine.published import LICENCE, read_published
from ..engine.settings import SettingsError
from ..engine.weights import save_weights
from ..files import user_path
from ..models import LDEQ
from .arguments.convert import ConvertArguments
from .outputs import Outputs


class Convert(ConvertArguments):
    def run(self) -> int:
        source = user_path(self.checkpoint)
        target = self.out or source.with_name(source.name.split(".")[0] + ".safetensors")
        outputs = Outputs()
        outputs.protect(source, "the checkpoint itself")
        target = outputs.file("--out", target)
        if target.suffix != ".safetensors":
            raise SettingsError(f"--out {target} must end in .safetensors")
        if target.exists():
            raise SettingsError(f"{target} exists; choose another name with --out")
        found = read_published(source, self.variant, self.ignore)
        model = LDEQ(found.settings.model)
        model.load_state_dict(found.tensors, strict=False)
        layout = get_layout(found.settings.model.landmarks)
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        card = {
            "data": "WFLW, as the authors of the paper trained it" if layout.count == 98 else "as its authors trained it",
            "licence": LICENCE,
            "converted_from": {"file": source.name, "sha256": digest, "variant": found.variant, "arguments": found.arguments},
        }
        save_weights(target, model, layout, found.settings, {"card": card})
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"wrote {target}: the {found.variant} model, {parameters:.3f} M parameters, {layout.name}")
        print(f"  {LICENCE}")
        print(f"  it gives no score yet; fit one with: ldeq calibrate {target} --data SPEC")
        return 0
