"""What help shows at the end of each command: lines to copy."""

from __future__ import annotations

SPEC_HELP = (
    "A Hugging Face config.json (of any name), a folder with one, package.module:callable returning a torch.nn.Module, "
    "or the tritonparam.json of an earlier run, to repeat it exactly."
)
PLAN_SPEC_HELP = SPEC_HELP.replace("an earlier run, to repeat it exactly.", "an earlier run of a config.")
INIT_EXAMPLES = """[bold]Examples[/bold]

  tritonparam init examples/gpt2.json --out gpt2-seed0

  tritonparam init llama/config.json --out llama --dtype bf16 --device cuda --seed 7

  tritonparam init mypackage.models:build --out model --max-shard-size 2GB

  tritonparam init gpt2-seed0/tritonparam.json --out the-same-again

  torchrun --nproc-per-node 8 -m tritonparam init llama/config.json --out llama
"""
INSPECT_EXAMPLES = """[bold]Examples[/bold]

  tritonparam inspect gpt2-seed0

  tritonparam inspect gpt2-seed0 --plot gpt2.png

  tritonparam inspect gpt2-seed0 --json | python -m json.tool
"""
PLAN_EXAMPLES = """[bold]Examples[/bold]

  tritonparam plan examples/llama-3.1-405b.json --mesh dp_shard=128,tp=8

  tritonparam plan examples/llama-3.1-405b.json --mesh pp=8,dp_shard=16,tp=8 --rank 512 --plot ranks.png

  tritonparam plan mypackage.models:build --mesh tp=4 --tp-plan tp.json --dtype bf16 --json
"""
DIFF_EXAMPLES = """[bold]Examples[/bold]

  tritonparam diff run1/step-1000 run2/step-1000

  tritonparam diff gpt2-seed0/tritonparam.json gpt2-copy

  tritonparam diff a.safetensors b.safetensors --json
"""
WARMUP_EXAMPLES = """[bold]Examples[/bold]

  tritonparam warmup

  tritonparam warmup --arch 80 90 100
"""
