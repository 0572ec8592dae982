"""What an adapter_config.json of PEFT's says: which modules get a LoRA, of what rank and scale."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detox_jax.errors import UserError, in_one_line
from detox_jax.interop import peft
from detox_jax.interop.config_fields import Fields
from detox_jax.models.config import TransformerConfig

BASE_FIELD = "base_model_name_or_path"
_ALL = "all-linear"
# What only training reads, how PEFT was called, and how what was trained had started.
_IGNORABLE = """auto_mapping base_model_name_or_path corda_config eva_config fan_in_fan_out
    inference_mode loftq_config lora_dropout lora_ga_config megatron_core peft_version
    qalora_group_size revision""".split()
# What changes what an adapter computes, by the value that is off.
_OFF: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "bias": "none",
    "ensure_weight_tying": False,
    "kasa_config": None,
    "layer_replication": None,
    "lora_bias": False,
    "megatron_config": None,
    "modules_to_save": None,
    "monteclora_config": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "velora_config": None,
}
# The others change the base's own weights when they start.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclasses.dataclass(frozen=True)
class Targets:
    """Which modules of the base an adapter's config names, and what each of them gets.

    Attributes:
      rank: of a module for which `rank_pattern` has none.
      alpha: of a module for which `alpha_pattern` has none.
      rank_pattern: ranks by the end of a module's name.
      alpha_pattern: the same of alphas.
      is_stabilised: whether alpha is divided by the root of the rank, and not by the rank.
      named: `target_modules`.
      left_out: `exclude_modules`.
      layers: `layers_to_transform`; all where None.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    is_stabilised: bool
    named: Sequence[str] | str
    left_out: Sequence[str] | str
    layers: frozenset[int] | None

    @classmethod
    def read(cls, fields: Fields) -> Targets:
        """Takes what decides it out of the fields, and refuses what cannot be held.

        Raises:
          UserError: naming the field.
        """
        fields.expect("peft_type", "LORA")
        fields.expect("task_type", "CAUSAL_LM", None)
        layers = fields.take("layers_to_transform", None)
        if layers is not None:
            layers = frozenset([layers] if isinstance(layers, int) else layers)
        fields.take("layers_pattern", None)  # Of what it names, the family knows the layers' place.
        start = fields.take("init_lora_weights", True)
        if start not in _STARTS:
            fields.refuse(
                "init_lora_weights",
                start,
                "it changed the base's weights; convert it to a plain LoRA with PEFT: "
                "save_pretrained(..., path_initial_model_for_weight_conversion=...)",
            )
        targets = cls(
            rank=_rank("r", fields.require("r")),
            alpha=_alpha("lora_alpha", fields.require("lora_alpha")),
            rank_pattern=_pattern("rank_pattern", fields, _rank),
            alpha_pattern=_pattern("alpha_pattern", fields, _alpha),
            is_stabilised=bool(fields.take("use_rslora", False)),
            named=fields.require("target_modules"),
            left_out=fields.take("exclude_modules", None) or (),
            layers=layers,
        )
        for name in _IGNORABLE:
            fields.take(name, None)
        for name, off in _OFF.items():
            fields.expect(name, off, None)
        fields.finish()
        return targets

    def __contains__(self, place: tuple[int, str]) -> bool:
        """Whether the module of that layer and full name is adapted."""
        layer, module = place
        if _matches(self.left_out, module):
            return False
        if isinstance(self.named, str):
            return self.named.lower() == _ALL or _matches(self.named, module)
        in_layers = self.layers is None or layer in self.layers
        return module in self.named or (in_layers and _matches(self.named, module))

    def of_module(self, module: str) -> tuple[int, float]:
        """The rank of a module, and what `B A` is multiplied by."""
        rank = _by_pattern(self.rank_pattern, module, self.rank)
        alpha = _by_pattern(self.alpha_pattern, module, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.is_stabilised else rank)


def _rank(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} is {value!r}; expected a whole number from 1")
    return value


def _alpha(name: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise UserError(f"{name} is {value!r}; expected a number")
    return float(value)


def _pattern(name: str, fields: Fields, checked: Callable[[str, Any], Any]) -> dict[str, Any]:
    values = dict(fields.take(name, None) or {})
    return {module: checked(f"{name}[{module!r}]", value) for module, value in values.items()}


def _matches(named: Sequence[str] | str, module: str) -> bool:
    """As PEFT has it: a pattern for the whole name, or names of which one ends it."""
    if isinstance(named, str):
        return bool(re.fullmatch(named, module))
    return any(module == name or module.endswith(f".{name}") for name in named)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that ends a module's name, as PEFT has it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def places(
    targets: Targets, config: TransformerConfig, family: str
) -> list[tuple[int, str, list[str]]]:
    """Layer, full name and our projections of every module that is adapted.

    Raises:
      UserError: if there is none.
    """
    where = peft.FAMILIES[family]
    members: dict[str, list[str]] = {}
    for name, module in where.modules.items():
        members.setdefault(module, []).append(name)
    modules = [
        (layer, f"{where.layer.format(layer)}{module}", names)
        for layer in range(config.num_layers)
        for module, names in members.items()
    ]
    try:
        adapted = [place for place in modules if place[:2] in targets]
    except re.error as error:
        raise UserError(f"a pattern of module names that is none: {in_one_line(error)}") from None
    if not adapted:
        raise UserError(f"target_modules {targets.named} names no projection of a {family} model")
    return adapted
