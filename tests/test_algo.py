"""The mathematics against hand-computed numbers, exact enumeration, slow definitions, scipy and numpy."""

from __future__ import annotations

import itertools
import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from lorarlhf.algo import logprobs as logprobs_module
from lorarlhf.algo.gae import gae, leave_one_out, token_rewards
from lorarlhf.algo.kl import AdaptiveKL, FixedKL, approx_kl, k1, k3
from lorarlhf.algo.logprobs import token_scores
from lorarlhf.algo.losses import below_zero, bradley_terry, ppo_policy, ppo_value
from lorarlhf.algo.statistics import (
    center_and_scale,
    explained_variance,
    masked_mean,
    masked_variance,
    scale_only,
    wilson_interval,
)

T_, H_, V_ = 23, 6, 37


def close(found, expected, tol=1e-5):
    found, expected = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (found, expected))
    torch.testing.assert_close(found, expected, rtol=tol, atol=tol)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(T_, H_, generator=generator)
    weight = torch.randn(V_, H_, generator=generator)
    targets = torch.randint(V_, (T_,), generator=generator)
    return hidden, weight, targets


def chunks_of(monkeypatch, elements):
    monkeypatch.setattr(logprobs_module, "CHUNK_ELEMENTS", {"cpu": elements, "other": elements})
    monkeypatch.setattr(logprobs_module, "LEAST_ROWS", 1)


# -- log-probabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("elements", [1, V_, 5 * V_, 23 * V_, 2**24], ids=lambda e: f"{e}elements")
def test_token_scores_and_their_gradients_equal_those_of_full_logits(problem, monkeypatch, temperature, elements):
    chunks_of(monkeypatch, elements)
    hidden, weight, targets = problem
    ours, plain = (t.clone().requires_grad_() for t in (hidden, hidden))
    found = token_scores(ours, targets, lambda h: h @ weight.T, V_, temperature, learn_entropy=True)
    log_p = torch.log_softmax(plain @ weight.T / temperature, -1)
    expected = log_p[torch.arange(T_), targets]
    entropy = -(log_p.exp() * log_p).sum(-1)
    close(found.logprobs_T, expected)
    close(found.entropy_T, entropy)
    coefficients = torch.linspace(-1, 1, T_)
    (coefficients * found.logprobs_T + 0.3 * coefficients**2 * found.entropy_T).sum().backward()
    (coefficients * expected + 0.3 * coefficients**2 * entropy).sum().backward()
    assert plain.grad.abs().max() > 0.01
    close(ours.grad, plain.grad)


@pytest.mark.parametrize("gradient", [True, False])
def test_no_tensor_of_logits_is_larger_than_a_chunk(problem, monkeypatch, gradient):
    chunks_of(monkeypatch, 4 * V_ + 3)
    hidden, weight, targets = problem
    sizes, asked, columns, earlier = [], [], weight.T.contiguous(), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            outputs = result if isinstance(result, tuple | list) else [result]
            sizes.extend(t.numel() for t in outputs if isinstance(t, torch.Tensor) and V_ in t.shape[-1:])
            return result

    def logits_of(h):
        assert not any(logits() is not None for logits in earlier)  # one chunk is gone before the next one comes
        asked.append(h.shape[0])
        logits = h @ columns
        earlier.append(weakref.ref(logits))
        return logits

    ours = hidden.clone().requires_grad_(gradient)
    with Watch(), torch.set_grad_enabled(gradient):
        found = token_scores(ours, targets, logits_of, V_)
        if gradient:
            found.logprobs_T.sum().backward()
    assert max(sizes) == 4 * V_
    assert asked == [4, 4, 4, 4, 4, 3]  # once, with gradients too


def test_a_token_is_scored_with_at_least_some_neighbours_whatever_the_vocabulary():
    assert logprobs_module.chunk_rows(10**9, torch.device("cpu")) == logprobs_module.LEAST_ROWS
    assert logprobs_module.chunk_rows(2**16, torch.device("cpu")) == 2**6
    assert logprobs_module.chunk_rows(2**16, torch.device("meta")) == 2**8


def test_without_being_asked_the_entropy_carries_no_gradient(problem):
    hidden, weight, targets = problem
    found = token_scores(hidden.clone().requires_grad_(), targets, lambda h: h @ weight.T, V_)
    assert found.logprobs_T.requires_grad
    assert not found.entropy_T.requires_grad


def test_gradients_pass_through_logits_that_are_capped(problem):
    hidden, weight, targets = problem
    ours, plain = (t.clone().requires_grad_() for t in (hidden, hidden))

    def capped(h):
        return torch.tanh(h @ weight.T / 3) * 3

    token_scores(ours, targets, capped, V_).logprobs_T.sum().backward()
    torch.log_softmax(capped(plain), -1)[torch.arange(T_), targets].sum().backward()
    close(ours.grad, plain.grad)


def test_no_logits_are_kept_for_the_backward_pass(problem, monkeypatch):
    chunks_of(monkeypatch, 4 * V_)
    hidden, weight, targets = problem
    kept = []

    def pack(tensor):
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_scores(hidden.clone().requires_grad_(), targets, lambda h: h @ weight.T, V_)
    assert torch.Size([T_, H_]) in kept
    assert not any(V_ in shape for shape in kept if shape[0] != H_)  # nothing [t, V] beyond its chunk


def test_half_precision_hidden_states_are_scored_in_fp32(problem):
    hidden, weight, targets = problem
    low = hidden.bfloat16()
    found = token_scores(low, targets, lambda h: h @ weight.T.bfloat16(), V_)
    logits = (low @ weight.T.bfloat16()).float()
    close(found.logprobs_T, torch.log_softmax(logits, -1)[torch.arange(T_), targets])
    assert found.logprobs_T.dtype == torch.float32


def test_uniform_logits_have_the_entropy_of_the_vocabulary():
    found = token_scores(torch.zeros(2, 1), torch.tensor([0, 3]), lambda h: h.expand(-1, 8), 8)
    close(found.logprobs_T, [-math.log(8)] * 2)
    close(found.entropy_T, [math.log(8)] * 2)


# -- KL ---------------------------------------------------------------------------------------------------------------


def test_k1_and_k3_have_the_exact_divergence_as_their_expectation():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    q = torch.tensor([0.2, 0.2, 0.5, 0.1], dtype=torch.float64)
    exact = 0.5 * math.log(2.5) + 0.3 * math.log(1.5) + 0.15 * math.log(0.3) + 0.05 * math.log(0.5)
    for estimate in (k1, k3):
        close((p * estimate(p.log(), q.log())).sum(), exact, 1e-12)
    assert (k3(p.log(), q.log()) > 0).all()
    assert k1(p.log(), q.log())[2] < 0  # a single k1 may be negative, log(0.3)
    close(k3(p.log(), p.log()), torch.zeros(4), 1e-12)


def test_approx_kl_by_hand():
    # 0.5 * 0.2**2 = 0.02, 0.5 * 1 = 0.5
    close(approx_kl(torch.tensor([-1.0, -3.0]), torch.tensor([-1.2, -2.0])), [0.02, 0.5])


def test_the_adaptive_price_moves_as_computed_by_hand():
    control = AdaptiveKL(coef=0.1, target=6.0, horizon=100.0)
    control.update(6.0, 50)
    assert control.coef == pytest.approx(0.1)  # on target: error 0
    control.update(6.6, 50)  # error 0.1 → × (1 + 0.1 · 50/100) = × 1.05
    assert control.coef == pytest.approx(0.105)
    control.update(60.0, 50)  # error 9, bounded at 0.2 → × 1.1
    assert control.coef == pytest.approx(0.1155)
    control.update(0.0, 25)  # error −1, bounded at −0.2 → × 0.95
    assert control.coef == pytest.approx(0.109725)
    fixed = FixedKL(0.1)
    fixed.update(60.0, 50)
    assert fixed.coef == 0.1


# -- rewards and advantages -------------------------------------------------------------------------------------------


def test_token_rewards_by_hand():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    new = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 9.0, 9.0]])
    reference = torch.tensor([[-1.5, -1.0, -3.0], [-0.5, 1.0, 2.0]])
    found = token_rewards(torch.tensor([5.0, -2.0]), new, reference, mask, 0.1)
    # Δ = 0.5, −1, 0 | 0, masked, masked; the score stands on the last counted token
    close(found, [[-0.05, 0.1, 5.0], [-2.0, 0.0, 0.0]])


def slow_gae(rewards, values, length, gamma, lam):
    """Sum the definition: A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} − V_t, and V = 0 after the end."""
    value = [*values[:length].tolist(), 0.0]
    delta = [float(rewards[t]) + gamma * value[t + 1] - value[t] for t in range(length)]
    return [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length)) for t in range(length)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (0.97, 1.0), (1.0, 0.0), (0.0, 0.9)])
def test_gae_equals_the_sum_that_defines_it(gamma, lam):
    generator = torch.Generator().manual_seed(3)
    lengths = [7, 1, 4, 6]
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    rewards = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    values = torch.randn(4, 7, generator=generator, dtype=torch.float64)  # both: rubbish after the end
    found = gae(rewards, values, mask, gamma, lam)
    for b, length in enumerate(lengths):
        expected = torch.tensor(slow_gae(rewards[b], values[b], length, gamma, lam), dtype=torch.float64)
        close(found.advantages_BR[b, :length], expected, 1e-12)
        close(found.returns_BR[b, :length], expected + values[b, :length], 1e-12)
        assert not found.advantages_BR[b, length:].any()
        assert not found.returns_BR[b, length:].any()


def test_gae_with_lambda_one_has_the_discounted_rewards_as_returns():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    mask = torch.ones(1, 3).bool()
    found = gae(rewards, torch.tensor([[10.0, -20.0, 30.0]]), mask, 0.5, 1.0)
    # 4; 2 + 4/2 = 4; 1 + 4/2 = 3: whatever the values say
    close(found.returns_BR, [[3.0, 4.0, 4.0]])
    close(found.advantages_BR, [[-7.0, 24.0, -26.0]])


def test_each_answer_is_compared_with_the_others_to_its_prompt():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    rewards = torch.tensor([[-1.0, 0.0, 4.0], [-2.0, 7.0, 7.0], [0.5, 0.5, 7.0], [1.0, 1.0, 1.0]])  # 7: after the end
    # Two answers each: 3 and −2 earned, 5 apart; 1 and 3.
    found = leave_one_out(rewards, mask, 2)
    close(found.advantages_BR, [[5.0, 5.0, 5.0], [-5.0, 0.0, 0.0], [-2.0, -2.0, 0.0], [2.0, 2.0, 2.0]])
    close(found.returns_BR, [[3.0, 3.0, 3.0], [-2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [3.0, 3.0, 3.0]])
    # Three to one prompt: 3 − (−2 + 1)/2 = 3.5; −2 − (3 + 1)/2 = −4; 1 − (3 − 2)/2 = 0.5.
    found = leave_one_out(rewards[:3], mask[:3], 3)
    close(found.advantages_BR, [[3.5, 3.5, 3.5], [-4.0, 0.0, 0.0], [0.5, 0.5, 0.0]])


def test_what_an_answer_earned_is_its_score_less_the_price_of_its_kl():
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -9.0]])
    reference = torch.tensor([[-2.0, -4.0], [-1.5, 0.0]])
    mask = torch.tensor([[True, True], [True, False]])
    rewards = token_rewards(torch.tensor([5.0, 1.0]), logprobs, reference, mask, 0.5)
    # 5 − 0.5 · (1 + 2) = 3.5 and 1 − 0.5 · 1 = 0.5
    close(leave_one_out(rewards, mask, 2).advantages_BR, [[3.0, 3.0], [-3.0, 0.0]])


@pytest.mark.parametrize("answers", [2, 3])
def test_leaving_one_out_leaves_the_gradient_unbiased(answers):
    """Over all draws there can be of three tokens, weighed by their probability, it is that of the mean reward."""
    logits = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    (wanted,) = torch.autograd.grad(logits.softmax(0) @ rewards, logits)
    log_p, expected = logits.log_softmax(0), torch.zeros(3, dtype=torch.float64)
    for drawn in itertools.product(range(3), repeat=answers):
        chosen = torch.tensor(drawn)
        mask = torch.ones(answers, 1).bool()
        advantages = leave_one_out(rewards[chosen][:, None], mask, answers).advantages_BR.squeeze(1)
        (estimate,) = torch.autograd.grad((advantages * log_p[chosen]).mean(), logits, retain_graph=True)
        expected += log_p[chosen].sum().exp().detach() * estimate
    close(expected, wanted, 1e-12)


# -- statistics -------------------------------------------------------------------------------------------------------


@pytest.fixture
def masked():
    generator = torch.Generator().manual_seed(5)
    values = 3 * torch.randn(4, 6, generator=generator, dtype=torch.float64) + 2
    mask = torch.rand(4, 6, generator=generator) < 0.6
    return values, mask, values[mask].numpy()


def test_masked_statistics_equal_numpys(masked):
    values, mask, counted = masked
    close(masked_mean(values, mask), counted.mean(), 1e-12)
    close(masked_variance(values, mask), counted.var(), 1e-12)
    scaled = center_and_scale(values, mask, eps=0.0)
    close(scaled[mask], (counted - counted.mean()) / counted.std(), 1e-12)
    assert not scaled[~mask].any()
    only = scale_only(values, mask, eps=0.0)
    close(only[mask], counted / counted.std(), 1e-12)
    assert not only[~mask].any()
    assert (only[mask].sign() == values[mask].sign()).all()


def test_statistics_of_nothing_and_of_constants_are_finite():
    values, nothing = torch.ones(2, 2), torch.zeros(2, 2).bool()
    assert masked_mean(values, nothing) == 0
    assert not center_and_scale(values, nothing).any()
    assert not center_and_scale(values, ~nothing).any()
    assert torch.isfinite(explained_variance(values, values, ~nothing))


def test_explained_variance_equals_numpys(masked):
    targets, mask, counted = masked
    predictions = 0.5 * targets + torch.linspace(0, 1, 24, dtype=torch.float64).view(4, 6)
    errors = (targets - predictions)[mask].numpy()
    close(explained_variance(predictions, targets, mask), 1 - errors.var() / counted.var(), 1e-12)
    close(explained_variance(targets + 7, targets, mask), 1.0, 1e-12)  # a constant offset leaves no variance
    close(explained_variance(torch.full_like(targets, 3.0), targets, mask), 0.0, 1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 12), (7, 12), (12, 12), (631, 1000)])
def test_the_wilson_interval_equals_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_wilson_interval_takes_halves_and_knows_nothing_of_no_trials():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(7.5, 12)
    assert wilson_interval(7, 12)[0] < low < 7.5 / 12 < high < wilson_interval(8, 12)[1]


# -- losses -----------------------------------------------------------------------------------------------------------


def test_bradley_terry_by_hand():
    chosen = torch.tensor([1.0, 0.0, 2.0, 1.0], requires_grad=True)
    rejected = torch.tensor([0.0, 0.0, 0.5, 0.0])
    margin = torch.tensor([0.0, 0.0, 0.5, 9.0])
    tie = torch.tensor([False, False, False, True])
    loss = bradley_terry(chosen, rejected, margin, tie)
    # log(1+e⁻¹); log 2; Δ − margin = 1 again; a tie ignores its margin: ½ log(1+e⁻¹) + ½ log(1+e¹)
    first = math.log1p(math.exp(-1))
    close(loss, [first, math.log(2), first, 0.5 * first + 0.5 * math.log1p(math.e)])
    loss.sum().backward()
    sigmoid = 1 / (1 + math.exp(-1))
    # d/dΔ = −(1 − σ(Δ−m)); of a tie σ(Δ) − ½
    close(chosen.grad, [sigmoid - 1, -0.5, sigmoid - 1, sigmoid - 0.5])


def test_a_tie_is_content_at_equal_scores():
    scores = torch.tensor([0.0], requires_grad=True)
    tie = torch.tensor([True])
    loss = bradley_terry(scores, torch.zeros(1), torch.ones(1), tie)
    close(loss, [math.log(2)])
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient.item() == 0.0
    near = [float(bradley_terry(torch.tensor([d]), torch.zeros(1), torch.zeros(1), tie)) for d in (-0.5, 0.5)]
    assert near[0] == pytest.approx(near[1])
    assert near[0] > loss.item()


def test_extreme_scores_give_finite_losses_and_gradients():
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = bradley_terry(chosen, -chosen.detach(), torch.zeros(2), torch.tensor([False, True]))
    close(loss, [2e4, 1e4])
    loss.sum().backward()
    close(chosen.grad, [-1.0, 0.5])


def test_below_zero_by_hand():
    close(below_zero(torch.tensor([0.0, 3.0, -3.0])), [math.log(2), math.log1p(math.exp(3)), math.log1p(math.exp(-3))])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "gradient"),
    [
        # clip 0.2. Gain bounded above 1.2: −2 · 1.2, and nothing more to gain there
        (1.5, 2.0, -2.4, True, 0.0),
        # a good token made unlikely is pulled back: −2 · 0.5, slope −A·ratio
        (0.5, 2.0, -1.0, False, -1.0),
        # a bad token made likely is pulled back: 2 · 1.5
        (1.5, -2.0, 3.0, False, 3.0),
        # a bad token already unlikely: 2 · 0.8, bounded
        (0.5, -2.0, 1.6, True, 0.0),
        # inside the range both branches are one
        (1.1, 2.0, -2.2, False, -2.2),
        (0.9, -2.0, 1.8, False, 1.8),
        (1.0, 2.0, -2.0, False, -2.0),
    ],
)
def test_the_policy_loss_on_every_side_of_the_clip(ratio, advantage, loss, clipped, gradient):
    old = torch.tensor([-1.3], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    found = ppo_policy(new, old, torch.tensor([advantage], dtype=torch.float64), 0.2)
    close(found.loss_T, [loss], 1e-9)
    assert found.clipped_T.tolist() == [clipped]
    found.loss_T.sum().backward()
    close(new.grad, [gradient], 1e-9)


@pytest.mark.parametrize(
    ("new", "returns", "loss", "clipped", "gradient"),
    [
        # old 1, clip 0.2. Moved past the bound towards the return: ½ (1.2 − 2)² = 0.32, no slope
        (1.5, 2.0, 0.32, True, 0.0),
        # moved away from the return: ½ (1.5 − 0)² = 1.125 beats ½ 1.2², slope 1.5
        (1.5, 0.0, 1.125, False, 1.5),
        # past the bound below, towards: ½ (0.8 − 0)² = 0.32
        (0.5, 0.0, 0.32, True, 0.0),
        # away: ½ (0.5 − 2)² = 1.125, slope −1.5
        (0.5, 2.0, 1.125, False, -1.5),
        # inside: ½ 0.9², slope −0.9
        (1.1, 2.0, 0.405, False, -0.9),
    ],
)
def test_the_value_loss_on_every_side_of_the_clip(new, returns, loss, clipped, gradient):
    values = torch.tensor([new], dtype=torch.float64, requires_grad=True)
    old, target = torch.tensor([1.0], dtype=torch.float64), torch.tensor([returns], dtype=torch.float64)
    found = ppo_value(values, old, target, 0.2)
    close(found.loss_T, [loss], 1e-9)
    assert found.clipped_T.tolist() == [clipped]
    found.loss_T.sum().backward()
    close(values.grad, [gradient], 1e-9)


def test_the_gradient_of_the_first_policy_step_is_plain_policy_gradient(problem):
    hidden, weight, targets = problem
    advantages = torch.linspace(-2, 2, T_)
    free = weight.clone().requires_grad_()
    new = torch.log_softmax(hidden @ free.T, -1)[torch.arange(T_), targets]
    ppo_policy(new, new.detach(), advantages, 0.2).loss_T.sum().backward()
    probs = F.softmax(hidden @ weight.T, -1)
    # ∇ log p = (onehot − p) ⊗ h
    expected = -torch.einsum("t,tv,th->vh", advantages, F.one_hot(targets, V_) - probs, hidden)
    close(free.grad, expected, 1e-4)
    assert np.isfinite(free.grad.numpy()).all()
