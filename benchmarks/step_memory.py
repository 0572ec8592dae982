"""Memory of loss and gradients on a chip, by attention kernel, rematerialisation and chunk.

    pip install 'detox-jax[tpu]'
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/step_memory.py [--model=126m] \
        [--topology=v5e:2x2] [--mesh=fsdp=4] [--batch_size=32] [--length=2048] [--variants=...]

Compiled by the TPU compiler, with its least effort, for a topology that is not here; nothing is
run. A variant is `KERNEL/REMAT/CHUNK`, chunk 0 for all logits at once. Printed for each: memory
beside parameters and batch, calls of kernels in the program, seconds of compiling.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import gin
import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from detox_jax import cli
from detox_jax.checkpoints import model_dir as checkpoints
from detox_jax.models.config import TransformerConfig
from detox_jax.models.transformer import TransformerLM
from detox_jax.parallel import mesh as meshes
from detox_jax.training.step import batch_loss

_VARIANTS = "plain/dots/0,auto/dots/0,auto/dots/256,auto/attention/256,auto/full/256"
_FIELDS = ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")


def model_config(name: str) -> TransformerConfig:
    """The sizes of `gin_configs/models/NAME.gin`."""
    cli.load_config(cli.parse_arguments(["train", f"--gin_file=gin_configs/models/{name}.gin"]))
    return gin.query_parameter("MODEL/gin.macro.value").scoped_configurable_fn()


def compile_gradients(config: TransformerConfig, mesh: Mesh, rows: int, length: int) -> Any:
    """Loss and gradients of a whole model on a packed batch, compiled for the mesh's devices."""
    model = TransformerLM(config)
    ids = jax.ShapeDtypeStruct((rows, length), "int32", sharding=meshes.batch_sharding(mesh))
    batch = {f"decoder_{name}": ids for name in _FIELDS}
    params = checkpoints.abstract_on_mesh(model, mesh)

    def loss(params: Any, batch: Any) -> Any:
        return batch_loss(model, params, batch, None)[0]

    shardings = (None, jax.tree.map(lambda x: x.sharding, params))
    with meshes.sharding_scope(mesh):
        gradients = jax.jit(jax.value_and_grad(loss), out_shardings=shardings)
        return gradients.lower(params, batch).compile({"exec_time_optimization_effort": -1.0})


def main() -> None:
    """Prints one line a variant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="126m")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--mesh", default="fsdp=4")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--variants", default=_VARIANTS)
    flags = parser.parse_args()
    shape = {axis: int(size) for axis, size in (x.split("=") for x in flags.mesh.split(","))}
    mesh = meshes.create_mesh(shape, topologies.get_topology_desc(flags.topology, "tpu").devices)
    for variant in flags.variants.split(","):
        kernel, remat, chunk = variant.split("/")
        config = dataclasses.replace(
            model_config(flags.model),
            attention_kernel=kernel,
            remat=remat,
            logits_chunk=int(chunk) or None,
        )
        start = time.time()
        try:
            compiled = compile_gradients(config, mesh, flags.batch_size, flags.length)
        except jax.errors.JaxRuntimeError as error:
            print(f"{variant:24} does not fit: {str(error).splitlines()[0][:200]}", flush=True)
            continue
        stats = compiled.memory_analysis()
        temporary = (stats.peak_memory_in_bytes - stats.argument_size_in_bytes) / 2**30
        kernels = compiled.as_text().count("tpu_custom_call")
        seconds = time.time() - start
        print(f"{variant:24} {temporary:6.2f} GiB, {kernels} kernels, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
