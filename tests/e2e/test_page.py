"""The web page, used as people use it: in a browser, against the running service.

Answers come from the real service. Only what it will not give on demand (a delay, a refusal, a failure) is put in its
place, for that one response.
"""

import base64
import binascii
import contextlib
import io
import itertools
import json
import re
import struct
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Error, JSHandle, Page, Route, expect

from service.errors import ERRORS
from tests.e2e.conftest import LesionJudged
from tests.e2e.pictures import EXAMPLE, no_lesion, spoilt

SCRIPT = Path(__file__).parents[2] / "service" / "page" / "app.js"
PREDICTIONS = re.compile("/v1/predictions")  # with or without a query
PHONES = [{"viewport": {"width": width, "height": 780}, "is_mobile": True, "has_touch": True} for width in (320, 390)]

# Every visible element that holds text of its own, as [text, contrast ratio to the nearest opaque ground below it].
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.body.querySelectorAll("*")].filter((e) => hasText(e) && e.checkVisibility()).map((element) => {
    const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
    return [element.textContent.trim(), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
}"""


def picture(colour: str = "peru", size: tuple[int, int] = (320, 240)) -> bytes:
    """Return a plain PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def vast_picture() -> bytes:
    """Return a tiny PNG whose header claims 900 million pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", binascii.crc32(header))
    return picture()[:8] + chunk + picture()[33:]


def choose(page: Page, content: bytes, name: str = "lesion.png", media_type: str = "image/png") -> None:
    """Choose a file with these bytes."""
    page.set_input_files("#file", {"name": name, "mimeType": media_type, "buffer": content})


def transfer(page: Page, content: bytes) -> JSHandle:
    """Return what the browser hands over when these bytes are dropped or pasted."""
    return page.evaluate_handle(
        """(encoded) => {
          const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "lesion.png", { type: "image/png" }));
          return transfer;
        }""",
        base64.b64encode(content).decode(),
    )


def refuse(page: Page, status: int, code: str, times: int = 1, **more: str) -> None:
    """Answer the next prediction(s) with this problem instead of asking the service."""
    body = {"type": "about:blank", "title": code, "status": status, "code": code, "request_id": "r-123"} | more
    headers = {"Content-Type": "application/problem+json", "Retry-After": "1"}
    page.route(PREDICTIONS, lambda route: route.fulfill(status=status, headers=headers, json=body), times=times)


def expect_result(page: Page, decision: str = "") -> None:
    """Wait for a complete result, with this decision where one is named."""
    expect(page.locator("#view-answer")).to_be_visible()
    expect(page.locator("#decision-title")).to_be_visible()
    expect(page.locator("#classes > li")).to_have_count(7)
    if decision:
        expect(page.locator("#decision")).to_have_attribute("data-decision", decision)


def open_every_fold(page: Page) -> None:
    """Open every fold that can be seen but the overlay's, which asks the service."""
    for fold in page.locator("details:visible:not([open]):not(#look) > summary").all()[::-1]:  # opened ones drop out
        fold.click()


def show_where_the_network_looked(page: Page) -> None:
    """Open the overlay's controls and wait for the overlay."""
    page.get_by_text("Show where the network looked").click()
    expect(page.locator("#overlay")).to_be_visible()


def expect_problem(page: Page, title: str) -> None:
    """Wait for this problem."""
    expect(page.locator("#problem-title")).to_be_visible()
    expect(page.locator("#problem-title")).to_have_text(title)


def is_too_wide(page: Page) -> bool:
    """Return whether the page can be scrolled sideways; a phone's innerWidth grows with what sticks out."""
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


# ---------------------------------------------------------------- giving a picture


def test_example_gives_two_diagnoses_and_all_seven(page: Page) -> None:
    """The example picture gives two diagnoses, all seven classes with descriptions, and the preliminary label."""
    page.get_by_role("button", name="Example picture").click()
    expect_result(page)
    expect(page.locator("#leaders > li")).to_have_count(2)
    expect(page.locator("#classes > li").first).to_be_visible()  # no abstention folds them away
    expect(page.get_by_text("Preliminary result of an algorithm, not a diagnosis")).to_be_visible()
    assert all(page.locator("#classes .description").all_text_contents())


def test_page_shows_what_the_service_answered(page: Page) -> None:
    """Names, order, threshold, scores, model with its variant and request number are those of the service's answer."""
    with page.expect_response(PREDICTIONS) as response:
        choose(page, EXAMPLE.read_bytes())
    answer = response.value.json()
    expect_result(page, answer["decision"])
    assert page.locator("#leaders .name").all_text_contents() == [each["name"] for each in answer["diagnoses"]]
    expect(page.locator("#malignancy-threshold")).to_have_text(f"{100 * answer['malignancy']['threshold']:.1f}%")
    page.get_by_text("Picture check").click()
    shown = page.locator("#check-scores").text_content() or ""
    assert f"{answer['quality']['scores']['min_side_pixels']} pixels" in shown
    for scored in ("in_distribution", "certainty"):
        assert f"{answer[scored]['score']:.2f} of 1" in shown
    model = answer["model"]
    expect(page.locator("#made-model")).to_have_text(f"{model['name']}, version {model['version']}, {model['variant']}")
    expect(page.locator("#service")).to_have_text("Model " + (page.locator("#made-model").text_content() or ""))
    expect(page.locator("#made-request")).to_have_text(answer["request_id"])


def test_chosen_file_is_previewed_and_analysed(page: Page) -> None:
    """A chosen file is shown and analysed."""
    choose(page, picture(size=(320, 240)))
    expect_result(page)
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator("#picture-facts")).to_contain_text("320 \N{MULTIPLICATION SIGN} 240 pixels")


def test_dropped_file_is_analysed(page: Page) -> None:
    """A picture dropped anywhere on the page is analysed."""
    page.dispatch_event("footer", "drop", {"dataTransfer": transfer(page, picture())})
    expect_result(page)


def test_pasted_picture_is_analysed(page: Page) -> None:
    """A picture pasted from the clipboard is analysed."""
    page.evaluate(
        "(data) => document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))",
        transfer(page, picture()),
    )
    expect_result(page)


def test_camera_is_offered_on_a_phone_only(page: Page, context: BrowserContext, service_url: str) -> None:
    """A device with a mouse is not offered a camera; a phone is, with the camera at its back."""
    expect(page.get_by_role("button", name="Take a picture")).to_be_hidden()
    assert context.browser is not None
    phone = context.browser.new_context(**PHONES[1]).new_page()
    phone.goto(service_url)
    expect(phone.get_by_role("button", name="Take a picture")).to_be_visible()
    assert phone.locator("#camera").get_attribute("capture") == "environment"
    phone.context.close()


def test_clear_forgets_the_picture(page: Page) -> None:
    """Clear removes the picture and its result, and leaves the keyboard on the button that begins anew."""
    choose(page, picture())
    expect_result(page)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.locator("#view-empty")).to_be_visible()
    expect(page.get_by_role("button", name="Choose a picture")).to_be_focused()


# ---------------------------------------------------------------- what is decided


def test_suspicion_is_referred(page: Page, lesion_judged: LesionJudged) -> None:
    """Above the threshold the page says to see a doctor now, with the probability and the threshold."""
    choose(page, lesion_judged("refer"))
    expect_result(page, "refer")
    expect(page.locator("#decision-title")).to_have_text("See a doctor now")
    expect(page.locator("#decision-text")).to_contain_text("is above the threshold")
    expect(page.locator("#decision-text")).to_contain_text(
        page.locator("#malignancy-probability").text_content() or "?"
    )
    expect(page.locator("#leaders > li").first).to_be_visible()
    expect(page.locator("#behind")).to_be_hidden()


def test_low_risk_is_no_all_clear(page: Page, lesion_judged: LesionJudged) -> None:
    """Below the threshold the page still leaves the decision to a doctor, and nowhere calls the lesion healthy."""
    choose(page, lesion_judged("low_risk"))
    expect_result(page, "low_risk")
    expect(page.locator("#decision-title")).to_contain_text("a doctor decides")
    expect(page.locator("#decision-text")).to_contain_text("does not rule out disease")
    assert not re.search("healthy|all clear|safe", page.locator("#view-answer").inner_text(), re.IGNORECASE)


@pytest.mark.parametrize(("spoil", "fault"), [("blurred", "blurred"), ("black", "too dark"), ("bright", "overexposed")])
def test_poor_picture_is_not_judged(page: Page, spoil: str, fault: str) -> None:
    """A blurred, a black and a blown-out picture are not judged; it is said in plain words what is wrong."""
    choose(page, spoilt(spoil))
    expect_result(page, "abstain")
    expect(page.locator("#decision-title")).to_have_text("The system does not know")
    expect(page.locator("#decision-text")).to_contain_text("the picture is too poor")
    expect(page.locator("#reasons")).to_contain_text(f"The picture is {fault}")
    expect(page.locator("#check-summary")).to_contain_text(fault)
    expect(page.locator("#numbers")).to_be_hidden()


def test_abstention_folds_the_numbers_away(page: Page, lesion_judged: LesionJudged) -> None:
    """Where the system abstains the numbers stand behind a fold: closed at first, labelled as not to be relied on."""
    choose(page, lesion_judged("abstain"))
    expect_result(page, "abstain")
    expect(page.locator("#leaders > li")).to_have_count(2)
    expect(page.locator("#numbers")).to_be_hidden()
    page.get_by_text("What the network computed, not to be relied on").click()
    expect(page.locator("#leaders > li").first).to_be_visible()
    choose(page, lesion_judged("low_risk"))
    expect_result(page, "low_risk")
    expect(page.locator("#in-front #numbers")).to_be_visible()


@pytest.mark.parametrize("kind", ["noise", "landscape"])
def test_no_lesion_gets_no_diagnosis(page: Page, kind: str) -> None:
    """A picture that is no lesion gets no diagnosis, no malignancy and no overlay; bare numbers stand behind a fold."""
    choose(page, no_lesion(kind))
    expect_result(page, "abstain")
    expect(page.locator("#decision-text")).to_contain_text("it sees no skin lesion here")
    expect(page.locator("#look")).to_be_hidden()
    page.get_by_text("which mean nothing where there is no lesion").click()
    expect(page.locator("#classes > li").first).to_be_visible()
    expect(page.locator("#most-probable")).to_be_hidden()
    expect(page.locator("#malignancy")).to_be_hidden()


def test_unknown_decision_is_no_answer(page: Page) -> None:
    """A decision that the page does not know is shown as a failure, never as a result."""

    def reword(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"decision": "all_clear"})

    page.route(PREDICTIONS, reword, times=1)
    choose(page, picture())
    expect_problem(page, "Something went wrong")


# ---------------------------------------------------------------- where the network looked


def test_overlay_lies_on_the_picture(page: Page) -> None:
    """The overlay of the first diagnosis covers exactly the picture's own place, and is labelled as no evidence."""
    choose(page, EXAMPLE.read_bytes())
    expect_result(page)
    show_where_the_network_looked(page)
    first = page.locator("#leaders .name").first.text_content() or "?"
    expect(page.locator("#look-class option:checked")).to_have_text(first)
    expect(page.get_by_role("img", name=f"Overlay: what spoke for {first}")).to_be_visible()
    assert page.locator("#overlay").bounding_box() == page.locator("#preview").bounding_box()
    sides = "([o, p]) => [o.naturalWidth / o.naturalHeight, p.naturalWidth / p.naturalHeight]"
    overlay, preview = page.evaluate(sides, [page.locator(name).element_handle() for name in ("#overlay", "#preview")])
    assert overlay == pytest.approx(preview, rel=0.01)
    expect(page.locator("#look-note")).to_contain_text("no evidence")


def test_slider_changes_the_overlays_opacity(page: Page) -> None:
    """The arrow keys on the slider change how much of the overlay is seen, down to nothing."""
    choose(page, EXAMPLE.read_bytes())
    expect_result(page)
    show_where_the_network_looked(page)
    slider = page.get_by_role("slider", name="Overlay")
    slider.press("ArrowRight")
    expect(page.locator("#overlay")).to_have_css("opacity", "0.65")
    expect(page.locator("#look-strength")).to_have_text("65%")
    slider.press("Home")
    expect(page.locator("#overlay")).to_have_css("opacity", "0")


def test_class_selector_asks_again(page: Page) -> None:
    """Another class is asked for anew, with the picture that the page still holds, and gives another overlay."""
    with page.expect_response(PREDICTIONS) as first:
        choose(page, EXAMPLE.read_bytes())
    expect_result(page)
    show_where_the_network_looked(page)
    before = page.locator("#overlay").get_attribute("src") or ""
    selector = page.get_by_role("combobox", name="What spoke for")
    code = selector.locator("option").nth(1).get_attribute("value") or "?"
    with page.expect_response(PREDICTIONS) as second:
        selector.select_option(code)
    assert second.value.url.endswith(f"?explain={code}")
    assert second.value.json()["probabilities"] == pytest.approx(first.value.json()["probabilities"])
    expect(page.locator("#overlay")).not_to_have_attribute("src", before)
    expect(page.locator("#leaders > li")).to_have_count(2)  # the result itself stays


def test_failed_overlay_leaves_the_result(page: Page) -> None:
    """An overlay that cannot be had is explained beside the picture, can be tried again, and costs no result."""
    choose(page, EXAMPLE.read_bytes())
    expect_result(page)
    refuse(page, 503, "overloaded")
    page.get_by_text("Show where the network looked").click()
    expect(page.locator("#look-status")).to_contain_text("The service is busy")
    expect(page.locator("#look-status")).to_contain_text("r-123")
    expect(page.locator("#view-answer")).to_be_visible()
    page.locator("#look-again").click()
    expect(page.locator("#overlay")).to_be_visible()


def test_overlay_goes_with_its_picture(page: Page) -> None:
    """Closing the controls, and another picture, take the overlay away."""
    choose(page, EXAMPLE.read_bytes())
    expect_result(page)
    show_where_the_network_looked(page)
    page.get_by_text("Show where the network looked").click()
    expect(page.locator("#overlay")).to_be_hidden()
    show_where_the_network_looked(page)
    choose(page, picture())
    expect_result(page)
    expect(page.locator("#overlay")).to_be_hidden()
    assert page.locator("#overlay").get_attribute("src") is None


# ---------------------------------------------------------------- the site's prevalence


def test_prevalence_gives_predictive_values(page: Page) -> None:
    """A prevalence in percent, in either notation, is sent as a share; the answer's predictive values are shown."""
    expect(page.locator("#predictive")).to_be_hidden()
    page.get_by_text("Prevalence at your site").click()
    page.get_by_role("textbox", name="Malignant, of 100 lesions examined").fill("4,5")
    with page.expect_response(PREDICTIONS) as response:
        choose(page, EXAMPLE.read_bytes())
    assert response.value.url.endswith("?prevalence=0.045")
    malignancy = response.value.json()["malignancy"]
    expect_result(page)
    expect(page.locator("#predictive-title")).to_contain_text("4.5%")
    expect(page.locator("#ppv")).to_have_text(f"{100 * malignancy['positive_predictive_value']:.1f}%")
    expect(page.locator("#npv")).to_have_text(f"{100 * malignancy['negative_predictive_value']:.1f}%")


def test_new_prevalence_asks_again(page: Page) -> None:
    """A prevalence given after the answer renews it; the decision stays; emptying the field takes the values away."""
    choose(page, EXAMPLE.read_bytes())
    expect_result(page)
    before = page.locator("#malignancy-probability").text_content() or "?"
    page.get_by_text("Prevalence at your site").click()
    field = page.get_by_role("textbox", name="Malignant, of 100 lesions examined")
    field.fill("1")
    field.press("Enter")
    expect(page.locator("#predictive")).to_be_visible()
    expect_result(page)
    expect(page.locator("#malignancy-probability")).not_to_have_text(before)
    expect(field).to_be_focused()
    field.fill("")
    field.press("Enter")
    expect(page.locator("#malignancy-probability")).to_have_text(before)
    expect(page.locator("#predictive")).to_be_hidden()


@pytest.mark.parametrize("nonsense", ["0", "100", "-3", "many"])
def test_wrong_prevalence_is_not_sent(page: Page, nonsense: str) -> None:
    """What is no percentage between 0 and 100 is explained at the field and not sent."""
    page.get_by_text("Prevalence at your site").click()
    field = page.get_by_role("textbox", name="Malignant, of 100 lesions examined")
    field.fill(nonsense)
    with page.expect_request(PREDICTIONS) as request:
        choose(page, picture())
    assert "?" not in request.value.url
    expect(page.get_by_role("alert")).to_contain_text("above 0 and below 100")
    expect(field).to_have_attribute("aria-invalid", "true")


# ---------------------------------------------------------------- when it goes wrong


def test_text_named_jpg_is_explained(page: Page) -> None:
    """A text file called .jpg is refused in one plain sentence, with the request number."""
    choose(page, b"Dear doctor, ...", name="lesion.jpg", media_type="image/jpeg")
    expect_problem(page, "This file is not a picture the service can read")
    expect(page.locator("#problem-id")).to_have_text(re.compile(r"Request number \S+"))


def test_cut_picture_is_explained(page: Page) -> None:
    """A picture cut short is refused in one plain sentence."""
    choose(page, EXAMPLE.read_bytes()[:9000], name="lesion.jpg", media_type="image/jpeg")
    expect_problem(page, "This picture cannot be read")


def test_vast_picture_is_explained(page: Page) -> None:
    """A picture of too many pixels is refused in one plain sentence."""
    choose(page, vast_picture())
    expect_problem(page, "This picture is too large")


@pytest.mark.parametrize(
    ("status", "code", "title"),
    [
        (503, "overloaded", "The service is busy"),
        (503, "model_not_ready", "The model is not ready"),
        (504, "deadline_exceeded", "The answer took too long"),
        (500, "inference_failed", "The analysis failed"),
        (500, "a_code_of_the_future", "Something went wrong"),
    ],
)
def test_failure_is_explained_and_can_be_tried_again(page: Page, status: int, code: str, title: str) -> None:
    """Each failure of the service has its own plain words, its request number and a button to try again."""
    refuse(page, status, code)
    choose(page, picture())
    expect_problem(page, title)
    expect(page.locator("#problem-id")).to_have_text("Request number r-123")
    expect(page.locator("#again")).to_be_visible()


def test_every_error_code_has_plain_words() -> None:
    """Each code that the service can answer with has its own entry in the page's table of problems."""
    script = SCRIPT.read_text()
    assert [error.code for error in ERRORS if f"\n  {error.code}: [" not in script] == []


def test_refused_picture_is_sent_again_by_itself(page: Page) -> None:
    """After a 503 the page counts down the service's Retry-After and sends the picture again by itself."""
    refuse(page, 503, "overloaded")
    choose(page, picture())
    expect(page.locator("#again")).to_have_text("Try again in 1 s")
    expect(page.locator("#again")).to_be_disabled()
    expect_result(page)


def test_second_refusal_waits_for_the_visitor(page: Page) -> None:
    """The page tries again by itself only once; then the button is the visitor's."""
    refuse(page, 503, "overloaded", times=2)
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "predictions" in request.url else None)
    choose(page, picture())
    expect(page.locator("#again-note")).to_have_text("The page then sends it again by itself, once.")
    expect(page.locator("#again-note")).to_be_empty()  # the second refusal is on the page
    page.wait_for_timeout(1500)  # longer than its Retry-After: were anything to be sent, it would be by now
    assert len(asked) == 2
    page.locator("#again").click()
    expect_result(page)


def test_lost_network_is_explained(page: Page, context: BrowserContext) -> None:
    """Without a network the page says so, and answers once the network is back."""
    context.set_offline(True)
    choose(page, picture())
    expect_problem(page, "This device is offline")
    context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect_result(page)


def test_silent_service_is_explained(page: Page) -> None:
    """A connection that breaks is told apart from a fault of the picture, and still has a request number."""
    page.route(PREDICTIONS, lambda route: route.abort("connectionrefused"))
    choose(page, picture())
    expect_problem(page, "The service does not answer")
    expect(page.locator("#problem-id")).to_have_text(re.compile(r"Request number [0-9a-f]{32}"))


def test_markup_in_an_answer_stays_text(page: Page) -> None:
    """Whatever the service says is shown as text, never run as markup."""
    refuse(page, 504, "deadline_exceeded", detail="<img src=x>gone")
    choose(page, picture())
    expect(page.locator("#problem-hint")).to_have_text("The service says: <img src=x>gone")
    assert page.locator("#problem-hint img").count() == 0


# ---------------------------------------------------------------- one picture at a time


def test_cancel_stops_the_analysis(page: Page) -> None:
    """Cancel ends a running analysis at once and tells so; the picture can then be sent again."""
    page.route(PREDICTIONS, lambda route: None, times=1)  # held: the answer never comes
    choose(page, picture())
    page.get_by_role("button", name="Cancel").click()
    expect_problem(page, "Cancelled")
    expect(page.locator("#progress")).to_be_hidden()
    page.get_by_role("button", name="Try again").click()
    expect_result(page)


def test_newer_picture_wins(page: Page) -> None:
    """A picture given while another is analysed takes its place, even if the older answer comes last."""
    held: list[Route] = []
    page.route(PREDICTIONS, lambda route: held.append(route), times=1)
    choose(page, picture("peru", (300, 200)))
    expect(page.locator("#progress")).to_be_visible()
    choose(page, picture("sienna", (640, 480)))
    expect_result(page)
    failure = json.dumps({"code": "inference_failed"})
    with contextlib.suppress(Error):  # the page has hung up on this request: nobody may be there to hear
        held[0].fulfill(status=500, content_type="application/problem+json", body=failure)
    page.wait_for_timeout(300)  # nothing is to happen, so there is nothing to wait for
    assert page.locator("#view-answer").is_visible()
    expect(page.locator("#picture-facts")).to_contain_text("640 \N{MULTIPLICATION SIGN} 480 pixels")


# ---------------------------------------------------------------- for everybody


@pytest.mark.parametrize("context_options", PHONES, ids=["320", "390"])
def test_phone_never_scrolls_sideways(page: Page, lesion_judged: LesionJudged) -> None:
    """On a narrow phone nothing sticks out: before the result, with it and all its folds open, and with an error."""
    assert not is_too_wide(page)
    for content in (lesion_judged("refer"), lesion_judged("abstain")):
        choose(page, content)
        expect_result(page)
        show_where_the_network_looked(page)
        open_every_fold(page)
        assert not is_too_wide(page)
    choose(page, b"no picture", name="lesion.jpg", media_type="image/jpeg")
    expect(page.locator("#view-problem")).to_be_visible()
    assert not is_too_wide(page)


@pytest.mark.parametrize("context_options", PHONES[:1], ids=["320"])
def test_result_comes_into_view_on_a_phone(page: Page) -> None:
    """On a phone the result, which stands below the picture, is scrolled into view."""
    page.get_by_role("button", name="Example picture").click()
    expect_result(page)
    expect(page.locator("#result-heading")).to_be_in_viewport()


@pytest.mark.parametrize(
    "context_options", [{"color_scheme": "light"}, {"color_scheme": "dark"}], ids=["light", "dark"]
)
@pytest.mark.parametrize("decision", ["refer", "low_risk", "abstain"])
def test_text_is_readable(
    page: Page, lesion_judged: LesionJudged, context_options: dict[str, str], decision: str
) -> None:
    """Light and dark each have their own ground; every text on it, with all folds open, keeps WCAG AA's 4.5 to 1."""
    choose(page, lesion_judged(decision))
    expect_result(page, decision)
    show_where_the_network_looked(page)
    open_every_fold(page)
    page.get_by_role("textbox", name="Malignant, of 100 lesions examined").fill("-1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).not_to_be_empty()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 60) == (context_options["color_scheme"] == "dark")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 60
    assert [faint for faint in contrasts if faint[1] < 4.5] == []


def test_tab_order_follows_the_page(page: Page, lesion_judged: LesionJudged) -> None:
    """Tab goes through picture, overlay, buttons, prevalence and folds in the order of the page, each visibly."""
    choose(page, lesion_judged("abstain"))
    expect_result(page)
    show_where_the_network_looked(page)
    expected = ["clear", "SUMMARY", "look-class", "look-opacity", "choose", "example", "SUMMARY"]
    expected += ["behind-summary", "SUMMARY"]
    page.locator("#clear").focus()
    page.keyboard.press("Shift+Tab")  # so that the first Tab arrives by keyboard
    seen = []
    for _ in expected:
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert seen == expected


def test_headings_and_controls_make_an_outline(page: Page, lesion_judged: LesionJudged) -> None:
    """With a result and all folds open no level of heading is left out, and every control has a name."""
    choose(page, lesion_judged("abstain"))
    expect_result(page)
    show_where_the_network_looked(page)
    open_every_fold(page)
    outline = page.locator("body").aria_snapshot()
    levels = [int(level) for level in re.findall(r"heading .*\[level=(\d)\]", outline)]
    assert [pair for pair in itertools.pairwise(levels) if pair[1] > pair[0] + 1] == []
    assert re.findall(r"^ *- (?:button|combobox|slider|textbox|link)(?: *:| *$| \[)", outline, re.MULTILINE) == []
    assert page.locator("img:visible:not([alt])").count() == 0


def test_keyboard_alone_reaches_the_result(page: Page) -> None:
    """Tab and Enter alone lead from the top of the page to a result, and the focus can always be seen."""
    focused = "document.activeElement.textContent.trim()"
    for _ in range(8):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if page.evaluate(focused) == "Example picture":
            break
    page.keyboard.press("Enter")
    expect_result(page)
    assert page.evaluate(focused) == "Example picture"


def test_keyboard_opens_the_file_chooser(page: Page) -> None:
    """Enter on the first button opens the file chooser."""
    page.on("filechooser", lambda chooser: None)
    page.evaluate("0")  # a round trip: by now Chromium hands choosers over; without it one in three was cancelled
    page.get_by_role("button", name="Choose a picture").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "lesion.png", "mimeType": "image/png", "buffer": picture()})
    expect_result(page)


def test_focus_is_never_lost(page: Page) -> None:
    """When the focused Cancel button goes away, the focus moves to the result's heading."""
    page.route(PREDICTIONS, lambda route: None, times=1)
    choose(page, picture())
    page.locator("#cancel").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#result-heading")).to_be_focused()


def test_result_is_spoken(page: Page, lesion_judged: LesionJudged) -> None:
    """A screen reader is told the decision first, then what it means, then the first diagnosis."""
    choose(page, lesion_judged("refer"))
    expect_result(page)
    first = page.locator("#leaders .name").first.text_content() or "no name"
    spoken = re.compile(f"^Preliminary result. See a doctor now. .*Most probable: {re.escape(first)}")
    expect(page.locator("#status")).to_have_text(spoken)


def test_abstention_is_spoken_without_a_diagnosis(page: Page, lesion_judged: LesionJudged) -> None:
    """Where the system abstains a screen reader is told why, and no diagnosis."""
    choose(page, lesion_judged("abstain"))
    expect_result(page, "abstain")
    spoken = page.locator("#status")
    expect(spoken).to_contain_text("The system does not know")
    expect(spoken).to_contain_text(page.locator("#reasons > li").first.text_content() or "no reason")
    expect(spoken).not_to_contain_text("Most probable")


# ---------------------------------------------------------------- what leaves the device


def test_page_talks_to_its_own_server_only(context: BrowserContext, service_url: str) -> None:
    """From opening to overlay nothing is asked of another origin, no policy is violated, the console stays empty."""
    page, foreign, complaints = context.new_page(), [], []
    ours = (service_url, f"blob:{service_url}", "data:")  # the last two leave no browser
    page.on("request", lambda request: None if request.url.startswith(ours) else foreign.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(service_url)
    page.get_by_role("button", name="Example picture").click()
    expect_result(page)
    choose(page, EXAMPLE.read_bytes())
    expect_result(page)
    show_where_the_network_looked(page)
    page.get_by_role("slider", name="Overlay").press("Home")
    choose(page, spoilt("black"))
    expect_result(page, "abstain")
    open_every_fold(page)
    assert (foreign, complaints) == ([], [])


def test_policy_allows_nothing_from_elsewhere(page: Page, service_url: str) -> None:
    """The page comes with a policy that forbids everything but its own server's files."""
    policy = page.request.get(service_url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_file_name_stays_on_the_device(page: Page) -> None:
    """A file's name, which may be a patient's, is not sent."""
    with page.expect_request(PREDICTIONS) as request:
        choose(page, picture(), name="Erika Mustermann.png")
    sent = json.dumps(request.value.all_headers()).encode() + (request.value.post_data_buffer or b"")
    assert b"Mustermann" not in sent


def test_browser_keeps_nothing(page: Page, context: BrowserContext) -> None:
    """After a result, an overlay and a prevalence the browser holds no cookie, no storage and no database of ours."""
    open_every_fold(page)
    page.get_by_role("textbox", name="Malignant, of 100 lesions examined").fill("5")
    choose(page, EXAMPLE.read_bytes())
    expect_result(page)
    show_where_the_network_looked(page)
    kept = page.evaluate(
        "async () => [localStorage.length, sessionStorage.length, (await indexedDB.databases()).length]"
    )
    assert (context.cookies(), kept) == ([], [0, 0, 0])


# ---------------------------------------------------------------- about the model


VERSIONS = re.compile("/v1/models$")


def version(number: str, status: str, **more: object) -> dict[str, object]:
    """Return a version as GET /v1/models lists it."""
    made = {"name": "lesion7", "digest": "sha256:" + "0" * 64, "created_at": "2026-07-25T10:00:00Z", "classes": []}
    return {**made, "version": number, "status": status, "aliases": [], "serving_variant": "fp32", **more}


def test_the_card_of_the_serving_version_can_be_read(page: Page) -> None:
    """The section names the version that answers and shows its card: headings, tables and lists, no raw Markdown."""
    section = page.locator("#versions")
    expect(section).to_contain_text("answers now")
    page.get_by_text("Model card of version").click()
    expect(section.get_by_role("heading", name="Intended use")).to_be_visible()
    expect(section.locator(".model-card table").first).to_be_visible()
    shown = page.locator("#model-card-text").inner_text()
    assert not re.search(r"^#|\*\*|```|\]\(", shown, re.MULTILINE)
    assert len(shown) > 5000


def test_other_versions_stand_in_a_table(page: Page) -> None:
    """What each does, its aliases, why it was refused; a click shows its card."""
    models = [
        version("4", "refused"),
        version("3", "shadow", aliases=["candidate"]),
        version("2", "serving", aliases=["production"]),
        version("1", "loaded", aliases=["previous"]),
    ]
    refused = [
        {"version": "5", "digest": None, "reason": "damaged", "detail": "the manifest is not acceptable JSON"},
        {"version": "4", "digest": "sha256:0", "reason": "self_test", "detail": "golden probabilities differ"},
    ]
    page.route(VERSIONS, lambda route: route.fulfill(json={"models": models, "refused": refused}))
    page.route("**/v1/models/3", lambda route: route.fulfill(json={"model_card": "# Card of the third\n\n<b>bold</b>"}))
    page.reload()
    rows = page.locator("#versions-rows tr")
    expect(rows).to_have_count(4)
    told = [row.inner_text().split("\t") for row in rows.all()]
    assert [row[:3] for row in told] == [
        ["5", "was refused: the manifest is not acceptable JSON", ""],
        ["4", "was refused: golden probabilities differ", ""],
        ["3", "runs behind the answers, to be compared", "candidate"],
        ["1", "answers whoever asks for it by its number", "previous"],
    ]
    expect(page.get_by_role("button", name="Version 5: show its card")).to_be_disabled()
    page.get_by_role("button", name="Version 3: show its card").click()
    expect(page.get_by_role("heading", name="Card of the third")).to_be_visible()
    assert page.locator("#model-card-text b").count() == 0
    expect(page.locator("#model-card-text")).to_contain_text("<b>bold</b>")
