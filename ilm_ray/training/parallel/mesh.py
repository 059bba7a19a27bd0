"""The ranks of a layout as device meshes, seen once by the data that they read and once by the states that they
store."""

from dataclasses import dataclass

from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ilm_ray.config.layout import Layout


@dataclass(frozen=True)
class Meshes:
    """Two meshes over the same ranks in the same order, tp innermost so that its ranks are neighbours.

    reading: (pp, dp, cp, tp), by the sequences, and the tokens of them, that a rank reads.
    storing: (pp, replicate, shard, tp), dp * cp ranks as groups that a state is split over, and copies of such groups.
    """

    reading: DeviceMesh
    storing: DeviceMesh

    @classmethod
    def of(cls, layout: Layout, device_type: str) -> "Meshes":
        """Every rank calls it; `layout.dp` is known."""
        assert layout.dp is not None
        shard = layout.optimizer_group
        reading = (layout.pp, layout.dp, layout.cp, layout.tp)
        storing = (layout.pp, layout.sharding_ranks // shard, shard, layout.tp)
        return cls(
            init_device_mesh(device_type, reading, mesh_dim_names=("pp", "dp", "cp", "tp")),
            init_device_mesh(device_type, storing, mesh_dim_names=("pp", "replicate", "shard", "tp")),
        )

    def group(self, name: str) -> ProcessGroup:
        """Ranks that differ from this one in pp, dp, cp or tp alone."""
        return self.reading[name].get_group()

    def rank(self, name: str) -> int:
        """This rank's place in pp, dp, cp or tp."""
        return self.reading[name].get_local_rank()

    @property
    def states(self) -> DeviceMesh:
        """The mesh of FSDP2: one-dimensional, or two-dimensional with copies of the groups."""
        replicas = self.storing["replicate"].size()
        return self.storing["shard"] if replicas == 1 else self.storing["replicate", "shard"]
