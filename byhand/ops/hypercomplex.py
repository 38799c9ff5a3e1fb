"""The parametrised hypercomplex weight: a matrix of d·q numbers from d·q/n + n³ parameters."""

from torch import Tensor, einsum

from byhand.errors import ShapeError
from byhand.ops.tape import operation


def hypercomplex_weight(rules: Tensor, blocks: Tensor) -> Tensor:
    """W = Σᵢ Aᵢ ⊗ Sᵢ, the sum of n Kronecker products, (n, n, n) and (n, q/n, d/n) -> (q, d).

    In place of q·d numbers a layer learns n³ for the ``rules`` A and q·d/n for the ``blocks`` S; n = 4 with fixed rules
    would be the quaternions. W[a·q/n + p, b·d/n + r] = Σᵢ A[i, a, b] S[i, p, r]; each gradient is the same sum over
    the other two pairs of axes.

    Raises ShapeError where the rules are not n × n × n or the blocks are not n.
    Source: Zhang et al., Beyond Fully-Connected Layers with Quaternions (2021), equations 3 to 5.
    """
    n = len(rules) if rules.ndim else 0
    if rules.shape != (n, n, n):
        raise ShapeError(f"rules have shape {tuple(rules.shape)}; they must be n matrices of n × n")
    if blocks.ndim != 3 or len(blocks) != n:
        raise ShapeError(f"blocks have shape {tuple(blocks.shape)}; {n} rules take ({n}, q/{n}, d/{n})")
    return _hypercomplex_weight(rules, blocks)


def hypercomplex_weight_forward(rules: Tensor, blocks: Tensor):
    n, p, r = blocks.shape
    return einsum("iab,ipr->apbr", rules, blocks).reshape(n * p, n * r), (rules, blocks)


def hypercomplex_weight_backward(needed, grad: Tensor, rules: Tensor, blocks: Tensor):
    n, p, r = blocks.shape
    g = grad.reshape(n, p, n, r)
    return (
        einsum("apbr,ipr->iab", g, blocks) if needed[0] else None,
        einsum("apbr,iab->ipr", g, rules) if needed[1] else None,
    )


_hypercomplex_weight = operation(hypercomplex_weight_forward, hypercomplex_weight_backward)
