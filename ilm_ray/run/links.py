"""Find the node with a bad link: all nodes in pairs, then each suspect with a sound node (AcmeTrace, section 6.1).

A round measures pairs that share no node, all at once, so the number of rounds does not grow with the nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ilm_ray.run.doctor import Finding

SLOWEST_LINK = 50e6  # bytes/s between nodes; below it gradients of even small models take longer than the step
REMEDY = (
    "let the nodes reach each other on all ports (firewall, security group), name the interface between them "
    "(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME), or look at its network card"
)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Link:
    """A pair's all-gather: bytes a second, or the error that it ended with."""

    rate: float = 0.0
    error: str = ""

    @property
    def sound(self) -> bool:
        return not self.error and self.rate >= SLOWEST_LINK

    def line(self) -> str:
        return self.error or f"{self.rate / 1e6:.0f} MB/s"


def next_pairs(nodes: Sequence[str], known: Mapping[Pair, Link]) -> list[Pair]:
    """Pairs for the next round, none of them known; none once every node is judged.

    A node is sound once one of its links is, and bad once its link to a sound node is not. Where no node is sound yet,
    suspects are paired with one another.
    """
    sound = sound_nodes(known)
    open_ones = [node for node in nodes if node not in sound and not bad_links(node, known)]
    free = [node for node in nodes if node in sound] or list(open_ones)
    pairs = list[Pair]()
    for node in open_ones:
        taken = {name for pair in pairs for name in pair}
        partners = (other for other in free if other not in taken | {node} and not tried(node, other, known))
        if node not in taken and (partner := next(partners, None)) is not None:
            pairs.append((node, partner))
    return pairs


def judge(nodes: Sequence[str], known: Mapping[Pair, Link]) -> list[Finding]:
    """A finding for the sound links together, and one for each bad node, or each bad link of nodes not known as bad."""
    if len(nodes) == 1:
        return [Finding("gloo bandwidth", "one node: nothing goes over a network")]
    sound, findings = sound_nodes(known), list[Finding]()
    if rates := [link.rate for link in known.values() if link.sound]:
        findings.append(Finding("gloo bandwidth", f"{min(rates) / 1e6:.0f} MB/s or more"))
    bad = {node: links for node in nodes if node not in sound and (links := bad_links(node, known))}
    for node, links in bad.items():
        with_them = ", ".join(f"{link.line()} with {other}" for other, link in links.items())
        findings.append(Finding(f"gloo links of {node}", f"{with_them}; the other nodes reach each other", REMEDY))
    for (a, b), link in known.items():
        if not link.sound and a not in bad and b not in bad:
            findings.append(Finding(f"gloo link {a} - {b}", link.line(), REMEDY))
    return findings


def sound_nodes(known: Mapping[Pair, Link]) -> set[str]:
    """Nodes with a sound link."""
    return {node for pair, link in known.items() if link.sound for node in pair}


def bad_links(node: str, known: Mapping[Pair, Link]) -> dict[str, Link]:
    """Sound node -> its bad link to `node`."""
    sound = sound_nodes(known)
    ends = {(a if b == node else b): link for (a, b), link in known.items() if node in (a, b) and not link.sound}
    return {other: link for other, link in ends.items() if other in sound}


def tried(a: str, b: str, known: Mapping[Pair, Link]) -> bool:
    """Whether the link between two nodes was measured."""
    return (a, b) in known or (b, a) in known
