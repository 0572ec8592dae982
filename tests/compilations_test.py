"""JAX's own events say what is compiled, and when that has ended."""

import sys

import jax
import jax.numpy as jnp
import pytest

from detox_jax import compilations


def test_a_program_is_named_while_it_is_compiled():
    heard = compilations.Compilations()
    heard.listen()
    heard.listen()
    seen = []

    def look(event, duration, **of):
        seen.append((event.rpartition("/")[2], heard.program))

    jax.monitoring.register_event_duration_secs_listener(look)
    try:

        @jax.jit
        def double_it(x):
            return 2 * x

        double_it(jnp.ones(3))
        assert ("jaxpr_to_mlir_module_duration", "double_it") in seen
        assert seen[-1] == ("backend_compile_duration", None)
        compiled = heard.seconds
        assert compiled > 0
        double_it(jnp.ones(3))
        assert heard.seconds == compiled and heard.program is None
        double_it.lower(jnp.ones(4))
        assert heard.program == "double_it"  # And is not compiled, which nothing tells.
        heard.went_on()
        assert heard.program is None
    finally:
        jax.monitoring.unregister_event_duration_listener(look)
        jax.monitoring.unregister_event_duration_listener(heard.told)


@pytest.mark.parametrize(
    ("fun_name", "name"),
    [
        ("jit(_advance)", "advance"),
        ("step", "step"),
        ("jit(<lambda>)", "a program"),
        ("", "a program"),
    ],
)
def test_names_of_programs(fun_name, name):
    heard = compilations.Compilations()
    heard.told("/jax/core/compile/jaxpr_to_mlir_module_duration", 1.0, fun_name=fun_name)
    assert heard.program == name


def test_nothing_is_loaded_to_listen(monkeypatch):
    monkeypatch.delitem(sys.modules, "jax.monitoring")
    heard = compilations.Compilations()
    heard.listen()
    assert "jax.monitoring" not in sys.modules
