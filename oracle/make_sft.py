"""Supervised fine-tuning by TRL and an adapter by PEFT on a tiny model, as references for `hadal-post`.

    python oracle/make_sft.py

needs `trl==1.16.0` and `peft`. It writes a model, conversations, the loss and the gradients of one step of `SFTTrainer`
(assistant-only loss, padding-free), and an adapter with the logits of the model that has it.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "crates/post/tests/fixtures/sft"
TOKENIZER = ROOT / "crates/data/tests/fixtures/masks/tokenizer.json"
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATS = [
    [("user", "2+2?"), ("assistant", "It is 4.")],
    [("system", "Be terse."), ("user", "First?"), ("assistant", "One."), ("user", "Second?"), ("assistant", "Two.")],
    [("user", "Say hi, wörld"), ("assistant", "hi 🦀")],
    [("user", "Count"), ("assistant", "1 2 3 4 5 6 7 8")],
]


def config():
    return DeepseekV3Config(
        vocab_size=424, hidden_size=32, intermediate_size=48, moe_intermediate_size=12, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, q_lora_rank=20, kv_lora_rank=16, qk_nope_head_dim=12,
        qk_rope_head_dim=8, v_head_dim=10, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3, n_group=4,
        topk_group=2, first_k_dense_replace=1, routed_scaling_factor=2.5, norm_topk_prob=True, rope_theta=10000.0,
        max_position_embeddings=256, rope_interleave=True, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
        num_nextn_predict_layers=0, attention_bias=False,
    )  # fmt: skip


def split(name, tensor):
    """(checkpoint name, tensor) pairs: experts are packed in memory and separate on disk."""
    if name.endswith("mlp.experts.gate_up_proj"):
        base = name.removesuffix("gate_up_proj")
        for e, both in enumerate(tensor):
            gate, up = both.chunk(2, 0)
            yield f"{base}{e}.gate_proj.weight", gate
            yield f"{base}{e}.up_proj.weight", up
    elif name.endswith("mlp.experts.down_proj"):
        for e, down in enumerate(tensor):
            yield f"{name.removesuffix('down_proj')}{e}.down_proj.weight", down
    else:
        yield name, tensor


def make_model():
    torch.manual_seed(5)
    model = DeepseekV3ForCausalLM._from_config(config(), attn_implementation="eager").float()
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name and name.endswith("weight"):
                p.copy_((1 + 0.1 * torch.randn_like(p)).bfloat16().float())
            elif "e_score_correction_bias" in name:
                p.copy_(0.05 * torch.randn_like(p))
            elif name.endswith("weight") or "experts" in name:
                p.copy_((0.15 * torch.randn_like(p)).bfloat16().float())
    return model


def tensors(named):
    pairs = [pair for name, t in named for pair in split(name, t)]
    return {name: t.detach().clone().contiguous() for name, t in pairs}


def save_model(model):
    weights = tensors([*model.named_parameters()])
    weights = {name: t.bfloat16() for name, t in weights.items()}
    weights |= tensors([(n, b) for n, b in model.named_buffers() if "e_score_correction_bias" in n])
    save_file(weights, OUT / "model.safetensors", metadata={"format": "pt"})
    values = model.config.to_dict()
    keep = set(config().to_dict()) & {
        "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group",
        "topk_group", "first_k_dense_replace", "routed_scaling_factor", "norm_topk_prob", "max_position_embeddings",
        "tie_word_embeddings", "bos_token_id", "eos_token_id", "rms_norm_eps",
    }  # fmt: skip
    plain = {key: values[key] for key in sorted(keep)}
    plain |= {
        "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "rope_theta": 10000.0,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "hidden_act": "silu", "moe_layer_freq": 1,
        "num_nextn_predict_layers": 0, "initializer_range": 0.02,
    }  # fmt: skip
    (OUT / "config.json").write_text(json.dumps(plain, indent=1) + "\n")


def main():
    OUT.mkdir(exist_ok=True, parents=True)
    model = make_model()
    save_model(model)
    shutil.copy(TOKENIZER, OUT / "tokenizer.json")
    names = {"bos_token": "<BOS>", "eos_token": "<EOS>", "pad_token": "<PAD>"}
    (OUT / "tokenizer_config.json").write_text(json.dumps(names, indent=1) + "\n")
    (OUT / "chat_template.jinja").write_text(TEMPLATE)
    chats = [{"messages": [{"role": role, "content": text} for role, text in chat]} for chat in CHATS]
    (OUT / "chats.jsonl").write_text("".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats))

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), chat_template=TEMPLATE, **names)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder, use_cpu=True, bf16=False, fp16=False, max_length=None, padding_free=True,
            assistant_only_loss=True, per_device_train_batch_size=len(chats), report_to=[], gradient_checkpointing=False,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(chats), processing_class=tokenizer
        )
        rows = [trainer.train_dataset[i] for i in range(len(chats))]
        batch = trainer.data_collator(rows)
        trainer.model.train()
        count = int((batch["labels"] != -100).sum())
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count)
        loss.backward()
    ids = batch["input_ids"][0].tolist()
    record = {
        "loss": loss.item(),
        "ids": ids,
        "labels": batch["labels"][0].tolist(),
        "positions": batch["position_ids"][0].tolist(),
        "trained": count,
    }
    (OUT / "trl.json").write_text(json.dumps(record) + "\n")
    gradients = [(name, p.grad if p.grad is not None else torch.zeros_like(p)) for name, p in model.named_parameters()]
    save_file(tensors(gradients), OUT / "gradients.safetensors")
    print("loss", loss.item(), "trained", count, "of", len(ids))

    model.zero_grad()
    targets = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
    adapted = get_peft_model(make_model(), LoraConfig(r=3, lora_alpha=6.0, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.copy_(0.2 * torch.randn_like(p))
    adapted.save_pretrained(OUT / "adapter")
    (OUT / "adapter/README.md").unlink(missing_ok=True)
    inputs = torch.tensor([ids[:24]])
    with torch.no_grad():
        apart = adapted.eval()(inputs).logits[0]
        merged = adapted.merge_and_unload()(inputs).logits[0]
        plain = make_model().eval()(inputs).logits[0]
    print("merging changes", (apart - merged).abs().max().item(), "the adapter", (plain - merged).abs().max().item())
    save_file({"logits": merged.contiguous()}, OUT / "peft.safetensors")


def check(folder):
    """Whether PEFT reads an adapter that hadal wrote for this model: prints its logits' sum."""
    model = PeftModel.from_pretrained(make_model(), folder).eval()
    ids = json.loads((OUT / "trl.json").read_text())["ids"][:24]
    with torch.no_grad():
        return model.merge_and_unload()(torch.tensor([ids])).logits[0]


if __name__ == "__main__":
    main()
