"""minirnn beside PyTorch: the same numbers from the same weights, and weights there and back."""

from __future__ import annotations

import numpy as np
import pytest
from given_draws import GivenDraws
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

from minirnn import Input, Sequential, layers, set_random_seed  # noqa: E402
from minirnn.initializers import GlorotUniform, Orthogonal, RandomUniform  # noqa: E402
from minirnn.interop import pytorch  # noqa: E402
from minirnn.packing import full_mask  # noqa: E402
from minirnn.timeloop import run, run_backward  # noqa: E402

KINDS = {
    "rnn": (nn.RNN, layers.SimpleRNN),
    "relu": (nn.RNN, layers.SimpleRNN),
    "lstm": (nn.LSTM, layers.LSTM),
    "gru": (nn.GRU, layers.GRU),
}
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def pair(kind, features, units, depth, both, bias=True, dtype="float64", seed=1):
    """A PyTorch module with random weights, and our layers with the same ones."""
    theirs, ours = KINDS[kind]
    torch.manual_seed(seed)
    options = {"nonlinearity": "relu"} if kind == "relu" else {}
    options |= {"num_layers": depth, "bias": bias, "bidirectional": both}
    module = theirs(features, units, batch_first=True, **options).to(getattr(torch, dtype))
    activation = {"activation": "relu"} if kind == "relu" else {}
    model = Sequential([Input((None, features))])
    for _ in range(depth):
        layer = ours(units, use_bias=bias, return_sequences=True, **activation)
        model.add(layers.Bidirectional(layer) if both else layer)
    model.build()
    model = model.astype(dtype)
    pytorch.load_state_dict(model, module.state_dict())
    return module, model


def ragged(rng, rows=5, time=7):
    lengths = np.sort(rng.integers(1, time + 1, rows))[::-1].copy()
    lengths[0] = time
    return lengths, np.arange(time) < lengths[:, None]


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    depth=st.integers(1, 3),
    both=st.booleans(),
    bias=st.booleans(),
    packed=st.booleans(),
    features=st.sampled_from([1, 2, 5]),
    units=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 2**16),
)
def test_outputs_and_gradients(kind, depth, both, bias, packed, features, units, seed):
    rng = np.random.default_rng(seed)
    module, model = pair(kind, features, units, depth, both, bias, seed=seed)
    lengths, mask = ragged(rng)
    x = rng.normal(size=(5, 7, features))
    dy = rng.normal(size=(5, 7, units * (2 if both else 1)))
    if packed:
        dy *= mask[..., None]
    tensor = torch.tensor(x, requires_grad=True)
    if packed:
        inputs = nn.utils.rnn.pack_padded_sequence(tensor, torch.tensor(lengths), batch_first=True)
        out, _ = module(inputs)
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    else:
        out, _ = module(tensor)
    out.backward(torch.tensor(dy))

    y, cache = model.forward(x, mask=mask if packed else None)
    real = mask if packed else np.ones_like(mask)
    np.testing.assert_allclose(y[real], out.detach().numpy()[real], **CLOSE)
    dx, grads = model.backward(dy, cache)
    np.testing.assert_allclose(dx, tensor.grad.numpy(), **CLOSE)

    expected = model.astype("float64")  # the same way that weights go, gradients go
    pytorch.load_state_dict(expected, {key: p.grad for key, p in module.named_parameters()})
    for key, want in expected.params.items():
        # Two biases that are added have the same gradient: loaded, they stand there twice.
        halves = 2 if key.endswith("bias") and kind != "gru" else 1
        np.testing.assert_allclose(grads[key], want / halves, **CLOSE, err_msg=key)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("both", [False, True])
def test_final_states(kind, both):
    module, model = pair(kind, 2, 3, 1, both)
    rng = np.random.default_rng(2)
    lengths, mask = ragged(rng)
    x = rng.normal(size=(5, 7, 2))
    start = rng.normal(size=(2, 2 if both else 1, 5, 3))
    (layer,) = model.layers
    (layer.layer if both else layer).return_state = True
    states = 2 if kind == "lstm" else 1
    given_torch = tuple(torch.tensor(s) for s in start[:states])
    inputs = nn.utils.rnn.pack_padded_sequence(
        torch.tensor(x), torch.tensor(lengths), batch_first=True
    )
    _, final = module(inputs, given_torch if states == 2 else given_torch[0])
    final = final if states == 2 else (final,)
    given_ours = [start[s, d] for d in range(2 if both else 1) for s in range(states)]
    _, *got = layer(x, mask=mask, initial_state=given_ours)
    want = [final[s][d] for d in range(2 if both else 1) for s in range(states)]
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), **CLOSE)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_of_the_states_after_every_step(kind):
    """Of h and of c, beside PyTorch's cell stepped by hand."""
    _, model = pair(kind, 2, 3, 1, False)
    (layer,) = model.layers
    module = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind](2, 3).double()
    state = {key[:-3]: torch.tensor(v) for key, v in pytorch.state_dict(layer).items()}
    module.load_state_dict({key.rpartition(".")[2]: v for key, v in state.items()})
    rng = np.random.default_rng(3)
    packing = full_mask(5, 7).packing()
    count = len(layer.cell.state_names)
    x, first = rng.normal(size=(5, 7, 2)), rng.normal(size=(count, 5, 3))
    dhistory = rng.normal(size=(count, 8 * 5, 3))

    tensor = torch.tensor(x, requires_grad=True)
    start = [torch.tensor(s, requires_grad=True) for s in first]
    states, total = (
        start,
        sum((s * torch.tensor(d[:5])).sum() for s, d in zip(start, dhistory, strict=True)),
    )
    for t in range(7):
        given = tuple(states) if count == 2 else states[0]
        states = module(tensor[:, t], given)
        states = states if count == 2 else (states,)
        for s, d in zip(states, dhistory, strict=True):
            total = total + (s * torch.tensor(d[5 * (t + 1) : 5 * (t + 2)])).sum()
    total.backward()

    cache = run(layer.cell, packing.pack(x), packing, tuple(first))
    dx, dstate, _ = run_backward(layer.cell, (None,) * count, tuple(dhistory), cache)
    np.testing.assert_allclose(packing.unpack(dx), tensor.grad.numpy(), **CLOSE)
    for one, other in zip(dstate, start, strict=True):
        np.testing.assert_allclose(one, other.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("activation", ["linear", "tanh", "softmax"])
@pytest.mark.parametrize("distributed", [False, True])
def test_dense_reads_the_real_steps_alone(activation, distributed):
    """As a PyTorch layer that is given the steps of a packed sequence: behind it padding is 0."""
    torch.manual_seed(7)
    theirs = nn.Linear(11, 3).double()
    function = {"linear": lambda a: a, "tanh": torch.tanh, "softmax": lambda a: a.softmax(-1)}
    dense = layers.Dense(3, activation)
    ours = layers.TimeDistributed(dense) if distributed else dense
    ours.build((None, None, 11))
    dense.cast("float64")
    dense.set_weights([theirs.weight.detach().numpy().T, theirs.bias.detach().numpy()])
    rng = np.random.default_rng(7)
    lengths, mask = ragged(rng)
    x, dy = rng.normal(size=(5, 7, 11)), rng.normal(size=(5, 7, 3))

    tensor = torch.tensor(x, requires_grad=True)
    packed = nn.utils.rnn.pack_padded_sequence(tensor, torch.tensor(lengths), batch_first=True)
    steps = function[activation](theirs(packed.data))
    packed = nn.utils.rnn.PackedSequence(steps, packed.batch_sizes)
    want, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
    want.backward(torch.tensor(dy))

    y, cache = ours.forward(x, mask=mask)
    np.testing.assert_allclose(y, want.detach().numpy(), **CLOSE)
    dx, grads = ours.backward(dy, cache)
    np.testing.assert_allclose(dx, tensor.grad.numpy(), **CLOSE)
    np.testing.assert_allclose(grads["kernel"].T, theirs.weight.grad.numpy(), **CLOSE)
    np.testing.assert_allclose(grads["bias"], theirs.bias.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_dropout(rate):
    """With PyTorch's draws the same numbers; with draws of our own the same share of zeros."""
    torch.manual_seed(8)
    rng = np.random.default_rng(8)
    x, dy = rng.normal(size=(101, 103)), rng.normal(size=(101, 103))
    theirs, ours = nn.Dropout(rate), layers.Dropout(rate, seed=8)
    tensor = torch.tensor(x, requires_grad=True)
    want = theirs(tensor)
    want.backward(torch.tensor(dy))
    want = want.detach().numpy()
    y = ours(x, training=True)
    assert (y == 0).mean() == pytest.approx((want == 0).mean(), abs=0.02)

    dropped, kept = rng.uniform(0, rate, x.shape), rng.uniform(rate, 1, x.shape)
    ours.generator = GivenDraws(np.where(want == 0, dropped, kept))
    y, cache = ours.forward(x, training=True)
    dx, _ = ours.backward(dy, cache)
    np.testing.assert_allclose(y, want, **CLOSE)
    np.testing.assert_allclose(dx, tensor.grad.numpy(), **CLOSE)
    assert np.array_equal(ours(x), theirs.eval()(tensor).detach().numpy())


def test_one_seed_starts_both_directions_differently():
    """As PyTorch does (Keras starts them alike: see docs/differences.md)."""
    torch.manual_seed(9)
    theirs = nn.LSTM(17, 23, bidirectional=True)
    want = [weight.detach().numpy() for weight in theirs.parameters()]
    layer = layers.LSTM(
        23,
        kernel_initializer=GlorotUniform(seed=9),
        recurrent_initializer=Orthogonal(seed=9),
        bias_initializer=RandomUniform(-1, 1, seed=9),
        unit_forget_bias=False,
    )
    ours = layers.Bidirectional(layer)
    ours.build((None, None, 17))
    for weights in (want, ours.get_weights()):
        half = len(weights) // 2
        for ahead, back in zip(weights[:half], weights[half:], strict=True):
            assert ahead.shape == back.shape
            assert abs(np.corrcoef(ahead.ravel(), back.ravel())[0, 1]) < 0.3


class Classifier(nn.Module):
    def __init__(self, cell=nn.LSTM, depth=2, both=True):
        super().__init__()
        self.embed = nn.Embedding(19, 5)
        self.rnn = cell(5, 3, depth, batch_first=True, bidirectional=both)
        self.out = nn.Linear(6 if both else 3, 4)


def classifier(kind="LSTM", depth=2, both=True):
    layer = getattr(layers, kind)
    stack = [layer(3, return_sequences=i + 1 < depth) for i in range(depth)]
    model = Sequential(
        [
            layers.Embedding(19, 5, mask_zero=True),
            *(layers.Bidirectional(one) if both else one for one in stack),
            layers.Dropout(0.5),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.build()
    return model


@pytest.mark.parametrize("ending", ["safetensors", "pt", "pth"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_a_classifier_goes_there_and_back_bit_for_bit(kind, ending, tmp_path):
    cell = nn.RNN if kind == "SimpleRNN" else getattr(nn, kind)
    torch.manual_seed(3)
    theirs = Classifier(cell)
    with torch.no_grad():
        for name, weights in theirs.named_parameters():
            if "bias_hh" in name and kind != "GRU":
                weights.zero_()  # only the sum of both counts, and that is what we keep
    model = classifier(kind)
    names = dict(
        zip(
            ["embedding", *[x.name for x in model.layers[1:3]], "dense"],
            ["embed", "rnn", "rnn", "out"],
            strict=True,
        )
    )
    pytorch.load_state_dict(model, theirs.state_dict(), names)
    path = tmp_path / f"weights.{ending}"
    pytorch.save(model, path, names)
    again = Classifier(cell)
    state = (
        torch.load(path, weights_only=True)
        if ending != "safetensors"
        else {k: torch.tensor(v) for k, v in pytorch.read(path).items()}
    )
    again.load_state_dict(state)
    for (key, one), other in zip(
        theirs.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), key
    twin = classifier(kind)
    pytorch.load(twin, path, names)
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        assert np.array_equal(one, other)


def in_alphabetical_order_of_names():
    """A model and a module whose names, sorted, come in another order than their layers."""
    model = Sequential(
        [
            layers.Embedding(19, 5, name="words"),
            layers.Bidirectional(layers.LSTM(3), name="reader"),
            layers.Dense(6, name="first"),
            layers.Dense(6, name="a_second"),
        ]
    )
    model.build()
    theirs = nn.Module()
    theirs.words, theirs.reader = nn.Embedding(19, 5), nn.LSTM(5, 3, bidirectional=True)
    theirs.first, theirs.a_second = nn.Linear(6, 6), nn.Linear(6, 6)
    return model, theirs


def test_our_safetensors_file_knows_the_order_of_its_modules(tmp_path):
    model, _ = in_alphabetical_order_of_names()
    twin, _ = in_alphabetical_order_of_names()
    pytorch.save(model, tmp_path / "m.safetensors")
    pytorch.load(twin, tmp_path / "m.safetensors")
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        assert np.array_equal(one, other)


def test_a_safetensors_file_of_pytorchs_is_taken_in_the_one_order_that_fits(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(6)
    theirs, model = Classifier(), classifier()
    save_file(theirs.state_dict(), tmp_path / "m.safetensors")
    pytorch.load(model, tmp_path / "m.safetensors")
    assert np.array_equal(model.layers[0].params["embeddings"], theirs.embed.weight.detach())
    assert np.array_equal(model.layers[-1].params["kernel"].T, theirs.out.weight.detach())
    for layer, number in zip(model.layers[1:3], (0, 1), strict=True):
        weights = getattr(theirs.rnn, f"weight_hh_l{number}").detach()
        own = layer.forward_layer.cell.params["recurrent_kernel"].T
        assert np.array_equal(np.sort(own.ravel()), np.sort(weights.numpy().ravel()))


def test_modules_that_fit_in_more_than_one_order_need_names(tmp_path):
    from safetensors.torch import save_file

    model, theirs = in_alphabetical_order_of_names()
    save_file(theirs.state_dict(), tmp_path / "m.safetensors")
    before = model.get_weights()
    with pytest.raises(ValueError, match="does not tell the order .* more than one: .* by `names`"):
        pytorch.load(model, tmp_path / "m.safetensors")
    for one, other in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(one, other)
    names = {name: name for name in ("words", "reader", "first", "a_second")}
    pytorch.load(model, tmp_path / "m.safetensors", names)
    for name in ("first", "a_second"):
        kernel = getattr(theirs, name).weight.detach().T
        assert np.array_equal(model.get_layer(name).params["kernel"], kernel)


def test_without_names_modules_come_in_order():
    torch.manual_seed(4)
    theirs, model = Classifier(), classifier()
    pytorch.load_state_dict(model, theirs.state_dict())
    assert np.array_equal(model.layers[0].params["embeddings"], theirs.embed.weight.detach())
    assert np.array_equal(model.layers[-1].params["kernel"].T, theirs.out.weight.detach())
    ids = np.array([[3, 1, 7, 0], [2, 2, 18, 5]])
    packed = nn.utils.rnn.pack_padded_sequence(
        theirs.embed(torch.tensor(ids)),
        torch.tensor([3, 4]),
        batch_first=True,
        enforce_sorted=False,
    )
    _, (h, _) = theirs.rnn(packed)
    want = torch.softmax(theirs.out(torch.cat([h[-2], h[-1]], 1)), 1).detach().numpy()
    np.testing.assert_allclose(model.predict(ids), want, rtol=1e-5, atol=1e-6)
    # Ours, under our names, is a state dict of one module a layer.
    state = pytorch.state_dict(model)
    assert set(state) >= {"embedding.weight", "dense.weight", "dense.bias"}
    twin = classifier()
    pytorch.load_state_dict(twin, state)
    assert all(map(np.array_equal, twin.get_weights(), model.get_weights()))


def errors():
    state = Classifier().state_dict()
    less = {key: value for key, value in state.items() if not key.startswith("out")}
    yield "too few", classifier(), less, None, r"the model has the layers .*dense; the state dict"
    yield "too many", classifier(), {**state, "z.weight": state["out.weight"]}, None, "as many"
    wide = {**state, "out.weight": torch.zeros(4, 7)}
    yield "shape", classifier(), wide, None, r"kernel of layer 'dense' has shape \(6, 4\)"
    yield "one way", classifier(both=False), state, None, "bidirectional"
    yield "gates", classifier("GRU"), state, None, "12 rows; the layer's 3 gates"
    yield "unknown", classifier(), state, {"lstm": "rnn"}, "no layer with weights named lstm"
    names = {"embedding": "embed", "bidirectional": "rnn", "bidirectional_1": "rnn"}
    yield "nothing left", classifier(), state, {**names, "dense": "decoder"}, "module 'decoder'"
    projected = nn.LSTM(5, 3, proj_size=2).state_dict()
    one = Sequential([Input((None, 5)), layers.LSTM(3)])
    one.build()
    yield "projection", one, projected, None, "projection"


@pytest.mark.parametrize("case", list(errors()), ids=lambda case: case[0])
def test_what_does_not_fit_is_refused_and_changes_nothing(case):
    _, model, state, names, message = case
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        pytorch.load_state_dict(model, state, names)
    assert all(map(np.array_equal, before, model.get_weights()))


@pytest.mark.parametrize(
    "layer",
    [
        layers.GRU(3, reset_after=False),
        layers.LSTM(3, activation="relu"),
        layers.LSTM(3, recurrent_activation="hard_sigmoid"),
        layers.SimpleRNN(3, activation="sigmoid"),
        layers.LSTM(3, go_backwards=True),
    ],
    ids=["reset_before", "relu", "hard_sigmoid", "sigmoid", "backwards"],
)
def test_cells_that_pytorch_lacks(layer):
    model = Sequential([Input((None, 5)), layer])
    model.build()
    with pytest.raises(ValueError, match="PyTorch has"):
        pytorch.state_dict(model)


def test_a_file_that_could_run_code_is_not_loaded(tmp_path):
    path = tmp_path / "whole.pt"
    torch.save(Classifier(), path)
    with pytest.raises(ValueError, match="more than tensors.*state_dict"):
        pytorch.load(classifier(), path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a state dict"):
        pytorch.load(classifier(), tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected .safetensors"):
        pytorch.load(classifier(), tmp_path / "weights.bin")


def test_a_training_step_ends_where_pytorchs_does():
    """Forty steps of SGD from the same weights, on packed batches."""
    set_random_seed(1)
    torch.manual_seed(5)
    theirs, model = Classifier(nn.LSTM, 1, False), classifier("LSTM", 1, False)
    model.layers[-2].rate = 0.0
    pytorch.load_state_dict(model, theirs.state_dict())
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.5
    # Two biases share what we have in one: each step moves their sum twice.
    rates = [0.25 if "bias_" in k else 0.5 for k, _ in theirs.named_parameters()]
    groups = zip(theirs.parameters(), rates, strict=True)
    optimizer = torch.optim.SGD([{"params": [p], "lr": rate} for p, rate in groups])
    rng = np.random.default_rng(6)
    for _ in range(40):
        lengths, mask = ragged(rng)
        ids, y = rng.integers(1, 19, (5, 7)) * mask, rng.integers(0, 4, 5)
        packed = nn.utils.rnn.pack_padded_sequence(
            theirs.embed(torch.tensor(ids)), torch.tensor(lengths), batch_first=True
        )
        _, (h, _) = theirs.rnn(packed)
        loss = nn.functional.cross_entropy(theirs.out(h[-1]), torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ours = model.train_on_batch(ids, y)
        assert ours == pytest.approx(float(loss.detach()), rel=1e-4)
