"""Linear regression in closed form; Dive into Deep Learning, section 3.1.1.4."""

import torch
from torch import Tensor

from byhand.errors import ShapeError
from byhand.ops.tape import operation


class RankDeficient(ShapeError):
    """The columns of X are not independent, so that many weights fit equally well."""


def least_squares(X: Tensor, y: Tensor, minimum_norm: bool = False) -> Tensor:
    """w* = (XᵀX)⁻¹ Xᵀ y, the w with the least ‖X w − y‖, (N, d) and (N,) or (N, m) -> (d,) or (d, m).

    XᵀX is never formed, as that would square the condition number: Householder reflections turn X (its columns in order
    of size) into Q R, and R w = Qᵀ y is solved from below. With u = (XᵀX)⁻¹ g the gradients are ∂L/∂y = X u and
    ∂L/∂X = (y − X w) uᵀ − X u wᵀ.

    Where columns of X depend on each other, RankDeficient says so; ``minimum_norm=True`` then gives the shortest of all
    solutions (X⁺ y), which has no gradient here.

    Raises ShapeError for shapes that do not fit. Source: Golub & Van Loan, Matrix Computations, sections 5.3 and 5.5.
    """
    if X.ndim != 2 or y.ndim not in (1, 2) or len(X) != len(y) or not X.numel():
        raise ShapeError(
            f"X {tuple(X.shape)} and y {tuple(y.shape)} must be (N, d) and (N,) or (N, m), none of them empty"
        )
    if X.dtype != y.dtype or not X.is_floating_point():
        raise ShapeError(f"X is {X.dtype} and y {y.dtype}; both must be of one floating-point type")
    if not torch.isfinite(X).all() or not torch.isfinite(y).all():
        raise ShapeError("X or y holds infinite values or NaN; least squares has no solution for them")
    targets = y[:, None] if y.ndim == 1 else y
    w = _minimum_norm(X.detach(), targets.detach()) if minimum_norm else _least_squares(X, targets)
    return w[:, 0] if y.ndim == 1 else w


def least_squares_forward(X: Tensor, y: Tensor):
    R, Qy, order, rank = triangular(X, y)
    d = X.shape[1]
    if rank < d:
        raise RankDeficient(
            f"X of shape {tuple(X.shape)} has rank {rank}, so {d} weights are not determined; remove columns, "
            "or pass minimum_norm=True for the shortest of all solutions"
        )
    w = torch.empty_like(Qy[:d])
    w[order] = solve_upper(R[:d], Qy[:d])
    return w, (X, y, w, R[:d], order)


def least_squares_backward(needed, grad: Tensor, X: Tensor, y: Tensor, w: Tensor, R: Tensor, order: Tensor):
    u = torch.empty_like(grad)
    u[order] = solve_upper(R, solve_lower(R.T, grad[order]))  # (XᵀX)⁻¹ = P R⁻¹ R⁻ᵀ Pᵀ
    Xu = X @ u
    return (y - X @ w) @ u.T - Xu @ w.T if needed[0] else None, Xu if needed[1] else None


_least_squares = operation(least_squares_forward, least_squares_backward)


def _minimum_norm(X: Tensor, y: Tensor) -> Tensor:
    R, Qy, order, rank = triangular(X, y)
    d, m = X.shape[1], y.shape[1]
    w = y.new_zeros(d, m)
    if rank:
        # R's upper rows (rank × d) fix w only within their own span: with Rᵀ = Z T, w = Z T⁻ᵀ (Qᵀy), nothing across.
        T, reflections = reflect(R[:rank].T.clone())
        z = y.new_zeros(d, m)
        z[:rank] = solve_lower(T[:rank].T, Qy[:rank])
        for j in reversed(range(rank)):
            v = reflections[j]
            z[j:] -= 2 * v[:, None] * (v @ z[j:])
        w[order] = z
    return w


def triangular(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """R of X P = Q R, Qᵀ y, the order P of the columns, and the rank: those diagonals above rounding."""
    N, d = X.shape
    A, b, order = X.clone(), y.clone(), torch.arange(d, device=X.device)
    tolerance = max(N, d) * torch.finfo(X.dtype).eps
    first, rank = 0.0, 0
    for j in range(min(N, d)):
        sizes = _lengths(A[j:, j:])
        k = j + int(sizes.argmax())
        largest = float(sizes[k - j])
        first = first or largest
        if largest <= tolerance * first:
            break
        A[:, [j, k]], order[[j, k]] = A[:, [k, j]], order[[k, j]]
        v = _reflection(A[j:, j])
        A[j:, j:] -= 2 * v[:, None] * (v @ A[j:, j:])
        b[j:] -= 2 * v[:, None] * (v @ b[j:])
        rank += 1
    return A[:rank], b, order, rank


def reflect(A: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The triangle T of A = Z T, (n, r) with r ≤ n, and the reflections that Z is made of."""
    reflections = []
    for j in range(A.shape[1]):
        v = _reflection(A[j:, j])
        A[j:, j:] -= 2 * v[:, None] * (v @ A[j:, j:])
        reflections.append(v)
    return A, reflections


def _reflection(x: Tensor) -> Tensor:
    """The unit vector v for which (I − 2 v vᵀ) x lies along the first axis."""
    v = x.clone()
    v[0] += _lengths(x) if v[0] >= 0 else -_lengths(x)  # away from zero: the difference would cancel
    return v / _lengths(v)


def _lengths(A: Tensor) -> Tensor:
    """√Σ a² of each column, with the largest a set to 1 first: squares beyond 1e±154 would overflow or vanish."""
    largest = A.abs().amax(0)
    largest = torch.where(largest > 0, largest, 1)
    return largest * ((A / largest) ** 2).sum(0).sqrt()


def solve_upper(R: Tensor, b: Tensor) -> Tensor:
    """w of R w = b for an upper triangle R, from the last row up."""
    w = torch.empty_like(b)
    for i in reversed(range(len(R))):
        w[i] = (b[i] - R[i, i + 1 :] @ w[i + 1 :]) / R[i, i]
    return w


def solve_lower(L: Tensor, b: Tensor) -> Tensor:
    """w of L w = b for a lower triangle L, from the first row down."""
    w = torch.empty_like(b)
    for i in range(len(L)):
        w[i] = (b[i] - L[i, :i] @ w[:i]) / L[i, i]
    return w
