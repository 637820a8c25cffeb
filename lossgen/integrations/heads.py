"""The factors of a head: hidden states, weight and bias whose product is its logits.

A head is looked at anew in every call, as PEFT and others put theirs in its place.  One that is
not a plain linear layer is either written as one, exactly, or refused by name: a weight read past
an adapter would train without it.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossgen.integrations.errors import UnfitHead

__all__ = ["factors_of"]

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_PLAIN = (Tensor, nn.Parameter)


def factors_of(head: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Hidden states [*, E], weight [V, E] and bias [V] of the logits that ``head(hidden)`` is.

    Gradients flow through them to all that the head trains.

    Raises:
        UnfitHead: it is not linear, or what it computes is not in its weight.
    """
    _check_untouched(head)
    peft = sys.modules.get("peft")  # a head of PEFT's exists only where that was imported
    if peft is not None:
        if isinstance(head, peft.utils.ModulesToSaveWrapper):
            return factors_of(_saved(head), hidden)
        if isinstance(head, peft.tuners.lora.Linear):
            return _with_adapters(head, hidden)
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        raise UnfitHead(head=_name(head), problem="it is not a linear layer")
    weight, bias = head.weight, head.bias
    if type(weight) not in _PLAIN or not weight.dtype.is_floating_point:
        kind = f"{type(weight).__name__} of {weight.dtype}".replace("torch.", "")
        raise UnfitHead(head=_name(head), problem=f"its weight is quantised or sharded ({kind})")
    if weight.dim() != 2 or weight.device.type == "meta":
        raise UnfitHead(head=_name(head), problem="its weight is elsewhere: offloaded or sharded")
    return hidden, weight, bias


def _check_untouched(head: Any) -> None:
    """What is hung on a module does not run where only its weight is read."""
    if "forward" in getattr(head, "__dict__", {}):
        raise UnfitHead(head=_name(head), problem="its forward was replaced")
    if any(getattr(head, hooks, None) for hooks in _HOOKS):
        raise UnfitHead(head=_name(head), problem="hooks are registered on it")


def _saved(wrapper: Any) -> nn.Module:
    """The copy that PEFT trains whole, or the original while adapters are off."""
    if wrapper.disable_adapters or not wrapper.active_adapters:
        module: nn.Module = wrapper.original_module
        return module
    if len(wrapper.active_adapters) > 1:
        raise UnfitHead(head=_name(wrapper), problem="several adapters are active")
    module = wrapper.modules_to_save[wrapper.active_adapters[0]]
    return module


def _with_adapters(head: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """x·Wᵀ + s·(x·Aᵀ)·Bᵀ  →  [x, s·x·Aᵀ] · [W, B]ᵀ, exact with dropout before A; W + s·B·A would
    lose the adapter's digits to a weight in half precision."""
    factors, weight, bias = factors_of(head.base_layer, hidden)
    if head.disable_adapters and head.merged:
        problem = "its adapters are merged and disabled; unmerge them"
        raise UnfitHead(head=_name(head), problem=problem)
    if head.disable_adapters or head.merged:
        return factors, weight, bias
    left, right = [factors], [weight]
    for adapter in head.active_adapters:
        if adapter not in head.lora_A:
            continue
        if adapter in head.lora_variant:
            kind = type(head.lora_variant[adapter]).__name__
            raise UnfitHead(head=_name(head), problem=f"adapter {adapter!r} is {kind}, not LoRA")
        down, up = head.lora_A[adapter], head.lora_B[adapter]
        if up.bias is not None:
            raise UnfitHead(head=_name(head), problem=f"adapter {adapter!r} has a bias")
        given = head.lora_dropout[adapter](hidden.to(down.weight.dtype))
        left.append((F.linear(given, down.weight) * head.scaling[adapter]).to(hidden.dtype))
        right.append(up.weight.to(weight.dtype))
    return torch.cat(left, dim=-1), torch.cat(right, dim=1), bias


def _name(head: Any) -> str:
    kind = type(head)
    return f"{kind.__module__.partition('.')[0]}'s {kind.__name__}"
