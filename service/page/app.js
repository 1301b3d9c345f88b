// The page of dermserve. Data flows one way: an event calls `set`, `set` calls `render`, and `render` alone touches
// the page. Text reaches the page through textContent only, so nothing that a server or a file says can become markup.

import { markdown } from "./markdown.js";

const NO_ANSWER_AFTER_MS = 60_000; // far beyond the service's own deadline: only a dead connection lasts this long
const FALLBACK_RETRY_SECONDS = 2; // a refusal without Retry-After, as a proxy may send
const LARGE_BYTES = 8_000_000; // above this a cut connection is likely the service refusing the size

// code: [title, what to do, whether sending the same picture again can help]
const PROBLEMS = {
  invalid_image: ["This picture cannot be read", "The file seems damaged or cut short. Open it on your device to check, then save it again as JPEG or PNG.", false],
  unsupported_format: ["This file is not a picture the service can read", "Please give a JPEG, PNG, WebP, TIFF or BMP file. What counts is what the file holds, not what it is called.", false],
  payload_too_large: ["This picture is too large", "Please save it smaller, about 2000 pixels wide is plenty, and give it again.", false],
  invalid_request: ["The service did not understand the request", "Reload this page and give the picture again. If it stays so, please report the request number below.", false],
  not_found: ["The service is not where this page expects it", "Reload this page. If it stays so, please report it.", false],
  upload_timeout: ["The picture took too long to arrive", "The connection is slow. A smaller picture, about 2000 pixels wide, arrives sooner.", true],
  overloaded: ["The service is busy", "It could not promise an answer in time and so did not begin.", true],
  model_not_ready: ["The model is not ready", "The service is starting or is loading another model. This usually takes seconds.", true],
  deadline_exceeded: ["The answer took too long", "The service gave up rather than let you wait. Nothing is wrong with the picture.", true],
  inference_failed: ["The analysis failed", "The fault lies with the service, not with your picture. If it happens again, please report the request number below.", true],
  unreadable: ["This file cannot be opened", "It may be a folder, or it was moved or deleted after you chose it.", false],
  offline: ["This device is offline", "Connect to the network, then try again.", true],
  unreachable: ["The service does not answer", "It may have stopped, or the connection was cut.", true],
  timeout: ["No answer came", "The connection may have been lost on the way.", true],
  cancelled: ["Cancelled", "The picture was not analysed.", true],
  unknown: ["Something went wrong", "The service answered in a way that this page does not understand.", true],
};

const SEE_A_DOCTOR = "If the lesion is new, changes, itches, bleeds or worries you, see a doctor.";

const limits = ({ probability, threshold }) => `(${percent(probability, 1)} against ${percent(threshold, 1)})`;

// decision: [title, what it means, given the answer]. None of them may read as "all is well".
const DECISIONS = {
  refer: ["See a doctor now", ({ malignancy }) => `The malignancy probability is above the threshold ${limits(malignancy)} at which the model advises a doctor’s examination. The model may be wrong; only an examination can tell.`],
  low_risk: ["Low risk by the model, but a doctor decides", ({ malignancy }) => `The malignancy probability is below the threshold ${limits(malignancy)} at which the model advises a doctor’s examination. This does not rule out disease. ${SEE_A_DOCTOR}`],
  abstain: ["The system does not know", ({ reasons }) => `It gives no judgement: ${listed(reasons.map((code) => REASONS[code] ?? plain(code)))}.`],
};

// why it abstains; what to do about it stands in the answer's warnings
const REASONS = {
  not_a_lesion: "it sees no skin lesion here",
  poor_quality: "the picture is too poor",
  unfamiliar: "the picture is unlike those that it has learnt from",
  uncertain: "it is not certain enough",
};

// score of the answer's `quality`: [label, how it is written]
const SCORES = {
  min_side_pixels: ["Shorter side", (pixels) => `${pixels} pixels`],
  sharpness: ["Sharpness", (value) => `${value.toFixed(2)} (log10 of the Laplacian’s variance)`],
  brightness: ["Mean brightness", (share) => percent(share)],
  dark_share: ["Dark pixels", (share) => percent(share)],
  bright_share: ["Blown-out pixels", (share) => percent(share)],
  contrast: ["Contrast", (share) => `${percent(share)} (deviation of the brightness)`],
};

// status of a version: what it does
const ROLES = {
  serving: "answers",
  loaded: "answers whoever asks for it by its number",
  shadow: "runs behind the answers, to be compared",
  available: "is in the store",
  refused: "was refused",
};

const PNG_DATA = "data:image/png;base64,";
const ANSWER_PARTS = ["reasons", "diagnoses", "probabilities", "malignancy", "certainty", "quality", "in_distribution", "model", "warnings", "timing_ms"];

const byId = (id) => document.getElementById(id);
// phase: empty -> running -> answer or problem
// look: what the visitor asked the network to show of its work: { code, explanation, problem }, the last two null at first
const NOTHING = {
  phase: "empty", picture: null, startedAt: 0, sent: 0, answer: null, roundTripMs: 0, problem: null, retryAt: 0, retried: false, look: null,
};
// prevalence: malignant share at the site, 0 to 1, null where the visitor gave none; false where what he gave is none
// card: the version whose card is on show, and its text once it is there
let state = { ...NOTHING, models: [], refused: [], card: null, reachable: null, dragging: false, opacity: 0.6, prevalence: null };
// The AbortControllers of the work under way; whoever no longer holds the turn may not change the state.
let turn = null;
let lookTurn = null;

function set(change) {
  state = { ...state, ...change };
  render();
}

// ---------------------------------------------------------------- what happens

/** Stop whatever runs and return the right to speak: the newest picture always wins. */
function takeTurn() {
  turn?.abort();
  turn = new AbortController();
  takeLookTurn();
  return turn;
}

function takeLookTurn() {
  lookTurn?.abort();
  lookTurn = new AbortController();
  return lookTurn;
}

/** `shown` becomes "600 × 450 pixels" once the preview is drawn, and false where the browser cannot draw it. */
function openPicture(blob, note) {
  closePicture();
  return { blob, note, url: URL.createObjectURL(blob), shown: null };
}

function closePicture() {
  if (state.picture) URL.revokeObjectURL(state.picture.url);
}

function give(files) {
  if (files.length) analyse(openPicture(files[0], files.length > 1 ? `The first of ${files.length} files` : ""));
}

async function giveExample() {
  const mine = takeTurn();
  closePicture();
  set({ ...NOTHING, phase: "running", startedAt: performance.now() });
  try {
    const response = await fetch("page/example.jpg", { signal: mine.signal });
    if (!response.ok) throw new TypeError(`status ${response.status}`);
    const blob = await response.blob();
    if (mine === turn) analyse(openPicture(blob, "Drawn example"));
  } catch {
    if (mine === turn) set({ phase: "problem", problem: { code: failureCode("unreachable") } });
  }
}

async function analyse(picture, retried = false) {
  const mine = takeTurn();
  const startedAt = performance.now();
  set({ ...NOTHING, phase: "running", picture, startedAt, retried, prevalence: writtenPrevalence() });
  const requestId = newRequestId();
  const reply = await send(picture.blob, requestId, mine.signal, (sent) => mine === turn && set({ sent }), siteQuery());
  if (mine !== turn) return;
  const { answer, problem } = understand(reply, picture.blob, requestId);
  if (problem) return set({ phase: "problem", problem, retryAt: retryTime(reply, problem) });
  set({ phase: "answer", answer, roundTripMs: performance.now() - startedAt });
  if (!classesOf(answer)) loadModels(); // another version than the one this page knows has gone live
}

/** Ask again, with the picture that the page still holds, where the network saw `code`. */
async function explain(code) {
  const mine = takeLookTurn();
  const { picture, answer: shown } = state;
  set({ look: { code, explanation: null, problem: null } });
  const requestId = newRequestId();
  const reply = await send(picture.blob, requestId, mine.signal, () => {}, { explain: code, ...siteQuery() });
  if (mine !== lookTurn) return;
  const { answer, problem } = understand(reply, picture.blob, requestId);
  const explanation = answer?.explanation;
  const ours = explanation?.class === code && explanation.overlay.startsWith(PNG_DATA) && answer.model.digest === shown.model.digest;
  set({ look: { code, explanation: ours ? explanation : null, problem: ours ? null : (problem ?? { code: "unknown", requestId }) } });
}

function stopLooking() {
  takeLookTurn();
  set({ look: null });
}

/** A new prevalence changes the probabilities: an answer that stands on the page is asked for again. */
function takePrevalence() {
  const before = siteQuery().prevalence;
  set({ prevalence: writtenPrevalence() });
  const answering = state.phase === "answer" || state.phase === "running";
  if (answering && state.picture && siteQuery().prevalence !== before) analyse(state.picture);
}

// Read at each analysis too: a picture may be pasted while the field is still being written in.
const writtenPrevalence = () => readPercent(byId("prevalence").value);

/** "4", "4,5" or "4.5 %" as a share; null for nothing, false for what is no percentage between 0 and 100. */
function readPercent(text) {
  const number = text.replace("%", "").replace(",", ".").trim();
  if (!number) return null;
  const share = Number((Number(number) / 100).toPrecision(6));
  return share > 0 && share < 1 ? share : false;
}

const siteQuery = () => (state.prevalence ? { prevalence: state.prevalence } : {});

/** Made here, not left to the service, so that even a request that got lost has a number to report. */
const newRequestId = () => // not randomUUID: a page over plain http in a hospital's network has none
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** POST the bare image. Not a form: a form carries the file's name, and that may be a patient's. */
function send(blob, requestId, signal, onSent, query) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest(); // fetch cannot tell how much has been sent
    request.open("POST", ["v1/predictions", String(new URLSearchParams(query))].filter(Boolean).join("?"));
    request.timeout = NO_ANSWER_AFTER_MS;
    request.setRequestHeader("Accept", "application/json, application/problem+json");
    request.setRequestHeader("Content-Type", blob.type.startsWith("image/") ? blob.type : "application/octet-stream");
    request.setRequestHeader("X-Request-ID", requestId);
    request.upload.onprogress = (event) => onSent(event.loaded / Math.max(event.total, 1));
    request.onload = () =>
      resolve({ status: request.status, text: request.responseText, retryAfter: request.getResponseHeader("Retry-After") });
    request.onerror = async () => resolve({ failure: (await readable(blob)) ? failureCode("unreachable") : "unreadable" });
    request.ontimeout = () => resolve({ failure: "timeout" });
    request.onabort = () => resolve({ failure: "cancelled" });
    signal.addEventListener("abort", () => request.abort());
    request.send(blob);
  });
}

/** Whether the browser may still read the file: a folder, or a file deleted since, fails just as a dead network does. */
const readable = (blob) => blob.slice(0, 1).arrayBuffer().then(() => true, () => false);
const failureCode = (otherwise) => (navigator.onLine ? otherwise : "offline");

/** Turn what came back into either an answer or a problem, never both, never a half-read answer. */
function understand(reply, blob, requestId) {
  if (reply.failure) {
    const large = reply.failure === "unreachable" && blob.size > LARGE_BYTES;
    const hint = large ? `The picture is large (${formatBytes(blob.size)}): it may be more than the service accepts.` : "";
    return { problem: { code: reply.failure, hint, requestId } };
  }
  const body = parse(reply.text);
  const whole = ANSWER_PARTS.every((part) => body?.[part]) && Object.hasOwn(DECISIONS, body.decision);
  if (reply.status === 200 && whole && (abstains(body) || body.diagnoses.length === 2)) return { answer: body };
  const fromProxy = [502, 503, 504].includes(reply.status) && !body?.code; // something before the service speaks for it
  const code = Object.hasOwn(PROBLEMS, body?.code) ? body.code : fromProxy ? "unreachable" : "unknown";
  const hint = typeof body?.detail === "string" ? `The service says: ${body.detail}` : "";
  return { problem: { code, hint, requestId: body?.request_id ?? requestId } };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** When to offer the same picture again, in the clock of performance.now(); 0 for at once. */
function retryTime(reply, problem) {
  if (problem.code !== "overloaded" && problem.code !== "model_not_ready") return 0;
  const seconds = Number.parseFloat(reply.retryAfter ?? "");
  return performance.now() + 1000 * (Number.isFinite(seconds) ? Math.max(seconds, 0) : FALLBACK_RETRY_SECONDS);
}

const tryAgain = () => (state.picture ? analyse(state.picture, true) : giveExample());

function cancel() {
  takeTurn();
  set({ phase: "problem", problem: { code: "cancelled" } });
}

function clear() {
  takeTurn();
  closePicture();
  set(NOTHING);
  byId("choose").focus();
}

async function loadModels() {
  try {
    const response = await fetch("v1/models");
    const { models, refused } = await response.json();
    set({ models: models ?? [], refused: refused ?? [], reachable: true });
  } catch {
    set({ reachable: false });
  }
}

/** Fetch a version's model card. */
async function showCard(version) {
  set({ card: { version, text: null } });
  let text = "The card cannot be loaded now.";
  try {
    const response = await fetch(`v1/models/${encodeURIComponent(version)}`);
    text = (await response.json()).model_card ?? text;
  } catch {
    // the sentence above says it
  }
  if (state.card?.version === version) set({ card: { version, text } });
}

const serving = () => state.models.find((model) => model.status === "serving");
const classesOf = ({ model }) =>
  state.models.find(({ name, version }) => name === model.name && version === model.version)?.classes;

/** The clock of the page: shows the passing time, and sends a refused picture again, once, when its wait is over. */
function tick() {
  renderClock();
  const due = state.phase === "problem" && state.retryAt && performance.now() >= state.retryAt;
  if (due && !state.retried) tryAgain();
}

// ---------------------------------------------------------------- how it is written

function percent(probability, digits = probability < 0.1 ? 1 : 0) {
  const least = 0.1 ** digits / 100;
  if (probability > 0 && probability < least) return `< ${(least * 100).toFixed(digits)}%`;
  if (probability < 1 && probability > 1 - least) return `> ${(100 - least * 100).toFixed(digits)}%`; // never quite certain
  return `${(100 * probability).toFixed(digits)}%`;
}

const formatBytes = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const formatMs = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
const modelText = ({ name, version, variant }) => `${name}, version ${version}, ${variant}`;
const shortDigest = ({ digest }) => digest.replace("sha256:", "").slice(0, 12);
const date = (moment) => moment.slice(0, 10); // ISO 8601: read alike everywhere
const tagText = (malignant) => (malignant ? "Counts as malignant" : "Counts as benign");

function statusText() {
  if (state.phase === "running") return "The picture is being analysed.";
  if (state.phase === "problem") return PROBLEMS[state.problem.code].slice(0, 2).join(". ");
  if (state.phase !== "answer") return "";
  const [title, text] = DECISIONS[state.answer.decision];
  const told = [`Preliminary result. ${title}.`, text(state.answer), afterword(state.answer), ...state.answer.warnings];
  return [...told, abstains(state.answer) ? "" : leadersText(state.answer)].filter(Boolean).join(" ");
}

function leadersText({ diagnoses }) {
  const [first, second] = diagnoses.map(({ name, probability }) => `${name}, ${percent(probability)}`);
  return `Most probable: ${first}. Then: ${second}.`;
}

const abstains = ({ decision }) => decision === "abstain";
const afterword = (answer) => (abstains(answer) ? SEE_A_DOCTOR : "");
const plain = (code) => code.replaceAll("_", " ");

function checkText({ quality, in_distribution: familiar, reasons }) {
  const likeness = !familiar.accepted ? "no lesion recognised" : reasons.includes("unfamiliar") ? "unfamiliar" : "lesion recognised";
  return `${quality.accepted ? "quality sufficient" : listed(quality.problems.map(plain))}, ${likeness}`;
}

/** "a", "a and b", "a, b and c". */
const listed = (words) => (words.length < 2 ? words.join() : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

// ---------------------------------------------------------------- how it is shown

let drawn = {}; // what the page shows now, so that only what changed is drawn again

function render() {
  const before = drawn;
  drawn = state;
  const focused = document.activeElement;
  for (const phase of ["empty", "running", "problem", "answer"]) byId(`view-${phase}`).hidden = state.phase !== phase;
  document.body.dataset.dragging = state.dragging;
  if (state.picture !== before.picture) renderPicture(before.picture);
  renderProgress();
  if (state.models !== before.models || state.reachable !== before.reachable) renderService();
  if (state.models !== before.models) renderVersions();
  if (state.card !== before.card || state.models !== before.models) renderCard();
  if (state.problem && state.problem !== before.problem) renderProblem();
  if (state.answer && (state.answer !== before.answer || state.models !== before.models)) renderAnswer(before.answer);
  renderLook(before.look);
  renderSite();
  if (state.phase !== before.phase) arrive(focused);
  renderClock();
}

/** Tell screen readers, keep the keyboard where it can go on, and bring the result into view on a phone. */
function arrive(focused) {
  setText("status", statusText());
  const lost = focused !== document.body && focused?.closest("[hidden]");
  const done = state.phase === "answer" || state.phase === "problem";
  if (lost) byId(done ? "result-heading" : state.phase === "running" ? "cancel" : "choose").focus({ preventScroll: true });
  if (done && byId("result-heading").getBoundingClientRect().top > innerHeight * 0.7) byId("result-heading").scrollIntoView();
}

function renderPicture(before) {
  const { picture } = state;
  byId("stage").dataset.filled = picture ? "yes" : "no";
  byId("invitation").hidden = Boolean(picture);
  byId("no-preview").hidden = picture?.shown !== false;
  byId("preview").hidden = !picture || picture.shown === false;
  byId("facts").hidden = !picture;
  setText("picture-facts", picture ? [picture.note, picture.shown, formatBytes(picture.blob.size)].filter(Boolean).join(" · ") : "");
  if (!picture) byId("preview").removeAttribute("src");
  else if (picture.url !== before?.url) byId("preview").src = picture.url;
}

function renderProgress() {
  const sending = state.sent > 0 && state.sent < 1;
  const bar = byId("progress-bar");
  byId("progress").hidden = state.phase !== "running";
  byId("stage").ariaBusy = String(state.phase === "running");
  bar.dataset.known = sending;
  bar.style.setProperty("--value", sending ? state.sent : 0);
  if (sending) bar.setAttribute("aria-valuenow", Math.round(state.sent * 100));
  else bar.removeAttribute("aria-valuenow"); // without a value it is "busy" to a screen reader
  setText("progress-step", sending ? `Sending, ${Math.round(state.sent * 100)}%` : "Analysing");
}

/** The parts that change with time alone; silent to screen readers, which would otherwise never stop talking. */
function renderClock() {
  if (state.phase === "running") setText("elapsed", `${((performance.now() - state.startedAt) / 1000).toFixed(1)} s`);
  if (state.phase !== "problem") return;
  const left = Math.max(0, Math.ceil((state.retryAt - performance.now()) / 1000));
  byId("again").disabled = left > 0;
  setText("again", left > 0 ? `Try again in ${left} s` : "Try again");
}

function renderProblem() {
  const { code, hint, requestId } = state.problem;
  const [title, text, again] = PROBLEMS[code];
  byId("view-problem").dataset.mild = code === "cancelled";
  setText("problem-title", title);
  setText("problem-text", text);
  setText("problem-hint", hint ?? "");
  byId("again").hidden = !again;
  setText("again-note", state.retryAt && !state.retried ? "The page then sends it again by itself, once." : "");
  setText("problem-id", requestId ? `Request number ${requestId}` : "");
}

function renderAnswer(before) {
  const { answer, roundTripMs } = state;
  const { diagnoses, model } = answer;
  renderDecision(answer);
  byId("most-probable").hidden = !diagnoses.length;
  fill("leaders", diagnoses, (each) => row("leader-row", each, { ".name": each.name }));
  byId("malignancy").hidden = !diagnoses.length;
  renderMalignancy(answer.malignancy);
  fill("classes", rankedClasses(answer), (each) => row("class-row", each, { ".name": each.name, ".description": each.description }));
  fill("look-class", rankedClasses(answer), ({ code, name }) => new Option(name, code));
  renderFolds(answer, answer !== before);
  setText("made-model", modelText(model));
  setText("made-digest", shortDigest(model));
  byId("made-digest").title = model.digest;
  setText("made-time", `${formatMs(answer.timing_ms.total)} in the service, ${formatMs(roundTripMs)} in all`);
  setText("made-request", answer.request_id);
}

function renderDecision(answer) {
  const [title, text] = DECISIONS[answer.decision];
  byId("decision").dataset.decision = answer.decision;
  setText("decision-title", title);
  setText("decision-text", text(answer));
  // Where the system abstains the warnings are its reasons; elsewhere they are beside the point that it makes.
  fill("reasons", abstains(answer) ? answer.warnings : [], (reason) => element("li", reason));
  fill("warnings", abstains(answer) ? [] : answer.warnings, (warning) => element("li", warning));
  setText("decision-afterword", afterword(answer));
}

function renderMalignancy(malignancy) {
  const { probability, threshold, prevalence, positive_predictive_value: ppv, negative_predictive_value: npv } = malignancy;
  byId("malignancy").style.setProperty("--threshold", threshold);
  byId("malignancy-bar").style.setProperty("--value", probability);
  setText("malignancy-probability", percent(probability, 1));
  setText("malignancy-threshold", percent(threshold, 1));
  const known = [prevalence, ppv, npv].every(Number.isFinite);
  byId("predictive").hidden = !known;
  if (!known) return;
  setText("predictive-title", `Where ${percent(prevalence, 1)} of the lesions are malignant`);
  setText("ppv", percent(ppv, 1));
  setText("npv", percent(npv, 1));
  setText("ppv-meaning", `Of 1000 lesions that the model refers, about ${Math.round(1000 * ppv)} are malignant.`);
  const missed = Math.round(1000 * (1 - npv));
  setText("npv-meaning", `Of 1000 that it does not refer, ${missed < 1 ? "fewer than 1 is" : `about ${missed} are`} malignant all the same.`);
}

/** Where the system abstains, the network's numbers are not the result: they stand behind a fold that begins closed. */
function renderFolds(answer, fresh) {
  const { diagnoses, certainty, quality, in_distribution: familiar } = answer;
  byId("behind").hidden = !abstains(answer);
  byId(abstains(answer) ? "behind" : "in-front").append(byId("numbers"));
  if (fresh) byId("behind").open = false;
  setText("behind-summary", diagnoses.length ? "What the network computed, not to be relied on" : "The network’s numbers, which mean nothing where there is no lesion");
  setText("check-summary", checkText(answer));
  const scores = Object.entries(SCORES).map(([code, [label, written]]) => [label, written(quality.scores[code])]);
  scores.push(["Likeness to lesions", `${familiar.score.toFixed(2)} of 1 (no lesion below ${familiar.threshold.toFixed(2)})`]);
  scores.push(["Certainty", `${certainty.score.toFixed(2)} of 1 (uncertain below ${certainty.threshold.toFixed(2)})`]);
  fill("check-scores", scores, ([label, value]) => {
    const pair = document.createElement("div");
    pair.append(element("dt", label), element("dd", value));
    return pair;
  });
}

function renderLook(before) {
  const { look, answer, picture, opacity } = state;
  const visible = state.phase === "answer" && answer.diagnoses.length > 0 && picture?.shown !== false;
  byId("look").hidden = !visible;
  if (!visible || (before && !look)) byId("look").open = false;
  byId("overlay").hidden = !visible || !look?.explanation;
  byId("overlay").style.opacity = opacity;
  byId("look-opacity").value = Math.round(opacity * 100);
  byId("look-opacity").disabled = !look?.explanation;
  setText("look-strength", percent(opacity, 0));
  if (!look) return byId("overlay").removeAttribute("src");
  const name = rankedClasses(answer).find(({ code }) => code === look.code).name;
  byId("look-class").value = look.code;
  if (look !== before && look.explanation) byId("overlay").src = look.explanation.overlay;
  byId("overlay").alt = `Overlay: what spoke for ${name}`;
  byId("look-again").hidden = !look.problem;
  setText("look-note", look.explanation?.note ?? "");
  setText("look-status", lookText(look, name));
}

function lookText({ explanation, problem }, name) {
  if (problem) return `${PROBLEMS[problem.code].slice(0, 2).join(". ")} Request number ${problem.requestId}.`;
  return explanation ? `Shown: what spoke for ${name}.` : "Asking the network …";
}

function renderSite() {
  const { prevalence } = state;
  const wrong = prevalence === false;
  byId("prevalence").ariaInvalid = String(wrong);
  setText("prevalence-fault", wrong ? "Please give a number above 0 and below 100. Until then, none is used." : "");
  setText("site-value", prevalence ? `${percent(prevalence, 1)}` : "(optional)");
}

/** All classes, most probable first. Names and descriptions are the model's own; the page knows none by heart. */
function rankedClasses(answer) {
  const known = [...(classesOf(answer) ?? []), ...answer.diagnoses];
  return Object.entries(answer.probabilities)
    .map(([code, probability]) => ({ name: code, description: "", ...known.find((each) => each.code === code), probability }))
    .sort((a, b) => b.probability - a.probability);
}

function row(template, { probability, malignant }, texts) {
  const item = byId(template).content.firstElementChild.cloneNode(true);
  for (const [selector, text] of Object.entries(texts)) item.querySelector(selector).textContent = text;
  item.querySelector(".percent").textContent = percent(probability);
  item.querySelector(".bar").style.setProperty("--value", probability);
  const tag = item.querySelector(".tag");
  if (malignant === undefined) tag.remove();
  else tag.textContent = tagText(malignant);
  item.dataset.malignant = Boolean(malignant);
  return item;
}

function renderService() {
  const model = serving();
  byId("service").dataset.state = model ? "ready" : "away";
  const absent = state.reachable ? "No model is ready" : "The service does not answer";
  setText("service", model ? `Model ${modelText({ ...model, variant: model.serving_variant })}` : absent);
  setText("class-names", model ? `: ${(model.classes ?? []).map(({ name }) => name).join("; ")}.` : ".");
}

/** What was refused before its manifest could be read has a number and a reason only. */
function renderVersions() {
  const model = serving();
  const unread = state.refused.filter(({ version }) => !state.models.some((each) => each.version === version));
  const others = [...unread.map(({ version }) => ({ version, status: "refused", aliases: [] })), ...state.models].filter((each) => each !== model);
  byId("versions").hidden = !model && !others.length;
  byId("versions-others").hidden = !others.length;
  byId("model-card").hidden = !model;
  setText("versions-serving", model ? `${modelText({ ...model, variant: model.serving_variant })}, answers now. It was made on ${date(model.created_at)}; its digest begins with ${shortDigest(model)}.` : "");
  fill("versions-rows", others, versionRow);
}

function versionRow({ version, status, aliases, created_at: created }) {
  const item = byId("version-row").content.firstElementChild.cloneNode(true);
  const reason = state.refused.find((each) => each.version === version)?.detail;
  const card = item.querySelector("button");
  card.textContent = version;
  card.ariaLabel = `Version ${version}: show its card`;
  card.disabled = !created; // no manifest, no card
  card.addEventListener("click", () => {
    showCard(version);
    byId("model-card").open = true;
  });
  item.querySelector(".does").textContent = [ROLES[status] ?? plain(status), status === "refused" && reason].filter(Boolean).join(": ");
  item.querySelector(".aliases").textContent = aliases.join(", ");
  item.querySelector(".made").textContent = created ? date(created) : "";
  return item;
}

function renderCard() {
  const { card } = state;
  setText("model-card-summary", `Model card of version ${card?.version ?? serving()?.version}: what it can and cannot do`);
  if (!card) return byId("model-card-text").replaceChildren();
  byId("model-card-text").replaceChildren(...markdown(card.text ?? "Asking for the card …", 3));
}

function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text; // unchanged text must not be announced again
}

function fill(id, items, draw) {
  byId(id).replaceChildren(...items.map(draw));
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

// ---------------------------------------------------------------- what the visitor does

const takeFrom = (input) => {
  give([...input.files]); // a copy: the next line empties the list
  input.value = ""; // so that choosing the same file again counts as a choice
};
const previewDone = (shown) => state.picture?.url === byId("preview").src && set({ picture: { ...state.picture, shown } });
const carriesFile = (event) => event.dataTransfer?.types.includes("Files");

byId("choose").addEventListener("click", () => byId("file").click());
byId("photograph").addEventListener("click", () => byId("camera").click());
byId("invitation").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => takeFrom(event.target));
byId("camera").addEventListener("change", (event) => takeFrom(event.target));
byId("example").addEventListener("click", giveExample);
byId("clear").addEventListener("click", clear);
byId("cancel").addEventListener("click", cancel);
byId("again").addEventListener("click", tryAgain);
byId("look").addEventListener("toggle", ({ target }) => {
  if (target.open && !state.look && state.answer) explain(state.answer.diagnoses[0].code);
  if (!target.open && state.look) stopLooking();
});
byId("model-card").addEventListener("toggle", ({ target }) => {
  if (target.open && !state.card && serving()) showCard(serving().version);
});
byId("look-class").addEventListener("change", ({ target }) => explain(target.value));
byId("look-again").addEventListener("click", () => explain(state.look.code));
byId("look-opacity").addEventListener("input", ({ target }) => set({ opacity: target.value / 100 }));
byId("prevalence").addEventListener("change", takePrevalence);

byId("preview").addEventListener("load", ({ target }) => previewDone(`${target.naturalWidth} × ${target.naturalHeight} pixels`));
byId("preview").addEventListener("error", () => previewDone(false));

document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) give(event.clipboardData.files);
});
document.addEventListener("dragover", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault(); // without it the browser opens the file instead
  if (!state.dragging) set({ dragging: true });
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) set({ dragging: false }); // null: the pointer has left the window
});
document.addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  set({ dragging: false });
  give(event.dataTransfer.files);
});
addEventListener("offline", loadModels);
addEventListener("online", loadModels);

setInterval(tick, 100);
loadModels();
