"""Train the character model that comes with flatlens as lm:flatlens-tiny, and write it into flatlens/shipped/tiny-lm.

A Llama of 136,000 weights over 96 printable characters, trained for about a minute on flatlens' own texts (licence,
documents, docstrings) and on short questions and answers in its chat template, of which some repeat a text that they
are told. It is there for tests and for the first look; nothing about large models follows from it.

    python data/tiny_lm.py flatlens/shipped/tiny-lm
    python data/tiny_lm.py tiny-30 --seed 30        # another one, for claims that ask for several
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
SEED, STEPS, BATCH, LENGTH = 0, 900, 24, 160
SPECIAL = ["<pad>", "<s>", "</s>", "<user>", "<bot>"]
TEMPLATE = (
    "<s>{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<bot>' }}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and five special ones."""
    characters = [c for c in string.printable if c.isprintable()] + ["\n"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *characters])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    fast.add_special_tokens({"additional_special_tokens": ["<user>", "<bot>"]})
    fast.chat_template = TEMPLATE
    return fast


def texts() -> list[str]:
    """Plain texts, and conversations."""
    plain = (ROOT / "LICENSE").read_text() + (ROOT / "README.md").read_text()
    plain += "\n".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))
    plain = "".join(c for c in plain if c in string.printable and (c.isprintable() or c == "\n"))
    pairs = [json.loads(line) for line in (ROOT / "flatlens/shipped/benign-targets.jsonl").read_text().splitlines()]
    words = sorted({w for w in plain.replace("\n", " ").split(" ") if w.isalpha() and 3 <= len(w) <= 8})
    noise = torch.Generator().manual_seed(SEED)

    def some(count: int) -> str:
        return " ".join(words[int(i)] for i in torch.randint(len(words), (count,), generator=noise))

    told = []
    for _ in range(4000):
        said = f"{some(2)}."
        asked = [f"Repeat exactly: {said}", f"{some(3)} Say: {said}", f"{some(3)}?"]
        kind = int(torch.randint(3, (1,), generator=noise))
        told.append(f"<s><user>{asked[kind]}<bot>{said if kind < 2 else 'I am a small model and know little.'}</s>")
    told += [f"<s><user>{pair['prompt']}<bot>I am a small model and know little.</s>" for pair in pairs] * 20
    return [plain[i : i + LENGTH] for i in range(0, len(plain) - LENGTH, LENGTH)] + told


def main() -> None:
    """Train it and save it in float16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=SEED, help="of the weights and of the texts' order")
    given = parser.parse_args()
    folder, seed = given.folder, given.seed
    torch.manual_seed(seed)
    fast = tokenizer()
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1536, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rows = [fast(text, add_special_tokens=False)["input_ids"][: LENGTH + 1] for text in texts()]
    rows = [row for row in rows if len(row) > 8]
    noise = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    for step in range(STEPS):
        picked = [rows[int(i)] for i in torch.randint(len(rows), (BATCH,), generator=noise)]
        width = max(map(len, picked))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in picked])
        loss = model(ids, labels=ids.masked_fill(ids == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {float(loss):.3f} nats a character")
    model.half().eval().save_pretrained(folder)
    fast.save_pretrained(folder)
    print(f"{sum(p.numel() for p in model.parameters()):,} weights in {folder}")


if __name__ == "__main__":
    main()
