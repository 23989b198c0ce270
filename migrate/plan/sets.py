"""What several models on one copy of the weights cost together, and what each alone would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from migrate.plan.advise import Model, Row
from migrate.plan.cost import HOURS


@dataclass(frozen=True, slots=True)
class Together:
    """`models`: the names one server has; `lora_bytes`: their adapters beside the weights, in GPU memory.

    The adapters are counted as large as their files, at the largest rank of all. vLLM reserves room in every matrix
    that an adapter may change, also where these do not: take it for the least.
    """

    models: tuple[str, ...]
    lora_bytes: int = 0

    def loaded(self, model: Model) -> Model:
        """The model with the adapters in its memory."""
        return replace(model, weights=replace(model.weights, nbytes=model.weights.nbytes + self.lora_bytes))

    def apart_bytes(self, model: Model) -> int:
        """Weights of a server for each; `model` is the loaded one."""
        return (model.weights.nbytes - self.lora_bytes) * len(self.models) + self.lora_bytes

    def apart_gpus(self, row: Row) -> int | None:
        """GPUs when each model has servers of its own, that carry an equal share of the rate; one at least."""
        if row.cost is None:
            return None
        each = max(1, ceil(row.cost.instances / len(self.models)))
        return len(self.models) * each * row.gpus_per_instance

    def to_dict(self, model: Model, rows: Sequence[Row]) -> dict[str, Any]:
        """For --json: bytes, and dollars a month at the typical price, of the rows that fit."""
        return {
            "models": list(self.models),
            "weights_bytes": model.weights.nbytes,
            "lora_bytes": self.lora_bytes,
            "weights_bytes_apart": self.apart_bytes(model),
            "gpus": [
                {
                    "gpu": row.gpu.name,
                    "gpus": row.cost.gpus,
                    "gpus_apart": self.apart_gpus(row),
                    "per_month": row.cost.monthly[1] if row.cost.monthly else None,
                    "per_month_apart": self._monthly_apart(row),
                }
                for row in rows
                if row.wins and row.cost is not None
            ],
        }

    def _monthly_apart(self, row: Row) -> float | None:
        gpus = self.apart_gpus(row)
        return None if gpus is None or row.gpu.price is None else gpus * row.gpu.price.typical * HOURS

    def sentences(self, model: Model, rows: Sequence[Row]) -> list[str]:
        """The same for people; dollars of the first row that fits, which is the cheapest."""
        count, whole, apart = len(self.models), model.weights.nbytes, self.apart_bytes(model)
        lora = f", {self.lora_bytes / 1e9:.3g} GB of them adapters" if self.lora_bytes else ""
        told = [
            f"{count} models on one server ({', '.join(self.models)}): {whole / 1e9:.3g} GB of weights{lora}; "
            f"a server for each: {apart / 1e9:.3g} GB. Rate and load are of all together"
        ]
        best = next((row for row in rows if row.wins and row.cost is not None), None)
        if best is not None and best.cost is not None:
            gpus, dollars = self.apart_gpus(best), self._monthly_apart(best)
            text = f"{best.gpu.name}: {best.cost.gpus} for all, {gpus} with a server for each"
            if dollars is not None and best.cost.monthly is not None:
                text += f"; ${best.cost.monthly[1]:,.0f} a month instead of ${dollars:,.0f}"
            told.append(text)
        return told
