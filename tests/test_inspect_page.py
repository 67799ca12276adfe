"""The page that shows what a network did: its numbers, and how it behaves in a real browser."""

import base64
import json
import re
import shutil

import numpy as np
import pytest

import minirnn
from minirnn.cli import main
from minirnn.inspect import html_page, trace, write_page
from minirnn.inspect.page import packed
from minirnn.layers import GRU, LSTM, Bidirectional, Dense, Embedding, SimpleRNN, TextVectorization
from minirnn.models import Sequential

CLASSES = ["World", "Sports", "Business", "Sci/Tech"]
WORDS = ["striker", "wins", "the", "cup", "final", "after", "late", "goal", "oil", "again"]
TEXT = "striker wins the unheard <b>cup</b> final"
STACKS = {
    "lstm": lambda: [LSTM(5)],
    "bidirectional": lambda: [Bidirectional(LSTM(4, return_sequences=True)), GRU(3)],
    "rnn": lambda: [SimpleRNN(6)],
    "relu": lambda: [SimpleRNN(3, activation="relu")],
}


def model_of(kind):
    minirnn.set_random_seed(4)
    vectorizer = TextVectorization(vocabulary=[*WORDS, "bcupb"])
    layers = [vectorizer, Embedding(20, 6, mask_zero=True), *STACKS[kind]()]
    return Sequential([*layers, Dense(4, activation="softmax")])


def data_of(page):
    [text] = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    return json.loads(text)


def unpacked(array):
    whole = np.frombuffer(base64.b64decode(array["numbers"]), "<i2")
    factors = np.array(array["factors"])
    return whole.reshape(len(factors), -1) * factors[:, None]


# --- what stands in it ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STACKS)
def test_the_numbers_are_those_of_the_trace(kind):
    seen = trace(model_of(kind), TEXT)
    data = data_of(html_page(seen, CLASSES))
    assert data["tokens"] == seen.tokens
    assert data["classes"] == CLASSES
    np.testing.assert_allclose(data["probabilities"], seen.probabilities, 1e-4)
    assert len(data["layers"]) == len(seen.layers)
    for shown, layer in zip(data["layers"], seen.layers, strict=True):
        assert shown["usual"] == (kind != "relu")
        for group in ("states", "gates", "gradients"):
            arrays = getattr(layer, group)
            assert shown[group].keys() == arrays.keys()
            for name, array in arrays.items():
                close = np.abs(array).max(axis=1, keepdims=True) * 2e-5
                assert (np.abs(unpacked(shown[group][name]) - array) <= close).all()


def test_small_gradients_keep_their_digits_whatever_stands_beside_them():
    array = np.array([[1.0, -2.0], [3e-12, 1e-12], [0.0, 0.0], [np.nan, 5.0]])
    expected = np.nan_to_num(array)
    np.testing.assert_allclose(unpacked(packed(array)), expected, rtol=1e-4)


def test_nothing_in_a_text_can_leave_its_place():
    page = html_page(trace(model_of("lstm"), "</script><script>alert(1)</script>"), title="<i>&")
    assert page.count("<script") == 2
    assert "<title>&lt;i&gt;&amp;</title>" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_lessons_largest_model_on_a_long_text_stays_small():
    minirnn.set_random_seed(1)
    vectorizer = TextVectorization(vocabulary=WORDS)
    model = Sequential(
        [
            vectorizer,
            Embedding(20, 128, mask_zero=True),
            Bidirectional(LSTM(64, return_sequences=True)),
            Bidirectional(LSTM(64)),
            Dense(4, activation="softmax"),
        ]
    )
    page = html_page(trace(model, " ".join(WORDS * 6)), CLASSES)
    assert len(page.encode()) < 1_000_000


def test_errors():
    seen = trace(model_of("lstm"), TEXT)
    with pytest.raises(ValueError, match="classes: expected 4 names, one a class, received 2"):
        html_page(seen, ["a", "b"])
    with (
        pytest.raises(ValueError, match=r"trace: 6 tokens .* 10 is the limit"),
        pytest.MonkeyPatch.context() as m,
    ):
        m.setattr("minirnn.inspect.page.MOST_BYTES", 10)
        html_page(seen)


# --- the command line -----------------------------------------------------------------------------


def test_explain(tmp_path, capsys):
    path, page = str(tmp_path / "m.mrnn"), tmp_path / "page.html"
    model = model_of("bidirectional")
    model.build()
    model.save(path)
    assert main(["explain", path, TEXT, "--html", str(page), "--target", "Sports"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^unheard +\d\.\d\d  \S+ 0\.\d+   \(not in the vocabulary\)$", out, re.M)
    assert "1.00" in out
    assert data_of(page.read_text("utf-8"))["target"] == 1
    for wrong, message in (
        ([path], "expected one text, in quotes; received 0"),
        ([path, "a", "b"], "expected one text, in quotes; received 2"),
        ([path, "a", "--target", "Sport"], "--target: expected one of World, Sports"),
        ([path, "a", "--html", str(tmp_path / "no" / "p.html")], "--html: there is no folder"),
        ([path, ""], "text"),
    ):
        assert main(["explain", *wrong]) == 2
        assert message in capsys.readouterr().err


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as p:
        try:
            browser = p.chromium.launch(
                executable_path=chromium, args=[*quiet, "--disable-dev-shm-usage"]
            )
        except playwright.Error as error:
            pytest.skip(f"{chromium} does not start here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """`opened(kind, **context)` → the page of a model, in the browser; it must stay without errors
    and load nothing but itself."""
    errors, requests, contexts = [], [], []

    def opened(kind="bidirectional", **options):
        seen = trace(model_of(kind), TEXT)
        write_page(tmp_path / "page.html", seen, CLASSES)
        context = browser.new_context(**({"viewport": {"width": 1000, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        return page, seen

    yield opened
    for context in contexts:
        context.close()
    assert errors == []
    assert requests == [(tmp_path / "page.html").as_uri()] * len(contexts)


def current(page):
    return page.inner_text('#sentence button[aria-current="step"]').strip()


def number(text):
    return float(text.replace("−", "-"))


def test_keys_go_through_the_text_and_back(opened):
    page, seen = opened()
    assert current(page) == "final"
    page.keyboard.press("Home")
    assert current(page) == "striker"
    page.keyboard.press("ArrowRight")
    assert current(page) == "wins"
    assert page.inner_text("#where") == "token 2 of 6"
    shown = [number(t[:-2]) / 100 for t in page.locator("#classes .number").all_inner_texts()]
    np.testing.assert_allclose(shown, seen.probabilities[1], atol=6e-4)
    page.keyboard.press("b")
    assert current(page) == "final"
    assert page.get_attribute("#backward", "aria-pressed") == "true"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#spoken").startswith("bcupb: gradient ")


def test_buttons_play_and_stop(opened):
    page, _ = opened()
    page.click("#first")
    page.click("#play")
    page.wait_for_function("document.getElementById('where').textContent === 'token 3 of 6'")
    page.click("#play")
    assert page.inner_text("#play") == "▶ play"
    page.click("#sentence li:nth-child(5) button")
    assert current(page) == "bcupb"
    page.click("#previous")
    assert current(page) == "unheard"
    page.click("#last")
    assert current(page) == "final"


@pytest.mark.parametrize(
    ("kind", "layer"), [("lstm", 0), ("bidirectional", 1), ("bidirectional", 2), ("rnn", 0)]
)
def test_the_equations_hold_the_numbers_of_the_step(opened, kind, layer):
    page, seen = opened(kind)
    of = seen.layers[layer]
    page.select_option("#layer", index=layer)
    page.select_option("#unit", index=2)
    page.click("#backward")
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    t, u = len(seen.tokens) - 3, 2
    rows = {
        row.locator("td").nth(0).inner_text(): row.locator("td").nth(1).inner_text()
        for row in page.locator("#formulas tr").all()
    }
    assert number(rows["state"].split("= ")[-1]) == pytest.approx(of.states["h"][t, u], abs=1.1e-3)
    assert number(rows["dh_t"].split(": ")[-1]) == pytest.approx(
        of.gradients["h"][t, u], abs=1.1e-3
    )
    if of.cell == "LSTM":
        assert number(rows["memory"].split("= ")[-1]) == pytest.approx(
            of.states["c"][t, u], abs=1.1e-3
        )
        f, c_prev, i, g = map(
            number, re.findall(r"[−\d.]+(?= [·+=])|[−\d.]+(?= =)", rows["memory"])[-4:]
        )
        assert f * c_prev + i * g == pytest.approx(of.states["c"][t, u], abs=3e-3)


def test_unusual_activations_show_states_alone(opened):
    page, _ = opened("relu")
    assert page.locator("#formulas tr").count() == 1
    assert "before" in page.inner_text("#formulas")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_runs_over_the_edge(opened, scheme):
    page, _ = opened(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for key in ("b", "Home"):
        page.keyboard.press(key)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (brightness[0] > brightness[1]) == (scheme == "dark")


def test_everything_that_can_be_used_has_a_name(opened):
    page, _ = opened()
    for element in page.locator("button, select, canvas, [role=img]").all():
        name = element.evaluate(
            "e => e.getAttribute('aria-label') || e.ariaLabel || e.textContent.trim() ||"
            " (e.labels && e.labels[0] && e.labels[0].textContent)"
        )
        assert name
    assert page.get_attribute("html", "lang") == "en"
    assert page.get_attribute("#spoken", "aria-live") == "polite"


def test_a_click_in_a_map_goes_to_its_step_and_unit(opened):
    page, _ = opened("lstm")
    box = page.locator("canvas").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 1.5 / 6, box["y"] + box["height"] * 3.5 / 5)
    assert current(page) == "wins"
    assert page.input_value("#unit") == "3"
