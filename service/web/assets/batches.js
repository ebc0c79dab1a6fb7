// Enroll images in small requests that can be stopped and resumed, and show the outcome of each
// image.

import { ask, formOf, Problem } from "./api.js";
import { attempt, h, nameOf, pictureOf, sentence, wordsOfProblem } from "./elements.js";
import { addressOf, changed, fileId, gallery } from "./place.js";
import { t, textNodes } from "./texts.js";

// Small enough for the service’s limits, and to show progress.
const AT_ONCE = 8;
const BYTES_AT_ONCE = 16e6;
const REPEATS = 20;
// With more images, list only those with a problem or a warning, without pictures.
const ALL_LISTED = 50;
let sending = 0;

window.addEventListener("beforeunload", (event) => {
  if (sending > 0) event.preventDefault();
});

// Resolve to the number of images by outcome when all are sent, or sending has stopped.
export function enrollAll(place, path, shared, items) {
  const run = {
    path,
    shared,
    gallery: gallery(),
    counts: { enrolled: 0, there: 0, refused: 0 },
    // Of the stored images, with null for images without a name.
    names: new Set(),
    waiting: items,
    total: items.length,
    stopped: false,
    // Part of the idempotency key: a batch that is sent again is enrolled once.
    name: crypto.getRandomValues(new Uint32Array(3)).join("-"),
    batch: 0,
    bar: h("progress", { max: items.length, value: 0, "aria-label": t("progress") }),
    note: h("p", { class: "hint", role: "status" }),
    next: h("p", { class: "next" }),
    stop: h(
      "button",
      {
        type: "button",
        onclick: () => {
          run.stopped = true;
        },
      },
      t("stop"),
    ),
    resume: h("button", { type: "button", hidden: true, onclick: () => goOn(run) }, t("resume")),
    list: h("ul", { class: "rows" }),
  };
  run.box = h(
    "section",
    { "aria-label": t("batches.label") },
    h(
      "div",
      { class: "row" },
      h("div", { class: "grow" }, run.bar, run.note),
      run.next,
      run.stop,
      run.resume,
    ),
    run.list,
  );
  place.querySelectorAll(":scope > .finished").forEach((box) => box.remove());
  place.prepend(run.box);
  run.box.scrollIntoView({ block: "nearest" });
  return goOn(run);
}

async function goOn(run) {
  run.stopped = false;
  sending += 1;
  show(run, true);
  await attempt(run.box, async () => {
    while (run.waiting.length > 0 && !run.stopped) await sendBatch(run);
  });
  sending -= 1;
  show(run, false);
  showNext(run);
  run.box.scrollIntoView({ block: "nearest" });
  changed();
  return run.counts;
}

// Lead to the pictures of a person who was enrolled alone.
function showNext(run) {
  const [name] = run.names;
  if (run.names.size !== 1 || name === null) return;
  const href = addressOf(run.gallery, "identities", name);
  run.next.replaceChildren(
    h(
      "a",
      { class: "button", href },
      textNodes("batches.next", { name: h("span", { class: "name" }, name) }),
    ),
  );
}

async function sendBatch(run) {
  const batch = [];
  let bytes = 0;
  for (const item of run.waiting.slice(0, AT_ONCE)) {
    bytes += item.file.size;
    if (batch.length === 0 || bytes <= BYTES_AT_ONCE) batch.push(item);
  }
  const form = formOf(run.shared);
  for (const { file, identity, captured_at: time } of batch) {
    form.append("images", file);
    form.append("identity", identity);
    form.append("captured_at", time);
    form.append("external_id", fileId(file));
  }
  const results = await send(run, {
    method: "POST",
    body: form,
    headers: { "Idempotency-Key": `${run.name}-${run.batch}` },
  });
  run.batch += 1;
  run.waiting = run.waiting.slice(batch.length);
  run.list.append(
    ...results.map((result, index) => outcome(run, batch[index].file, result)).filter(Boolean),
  );
  show(run, true);
}

// Send a batch, again if the service is busy. If no image is stored, the answer is a problem with a
// result per image.
async function send(run, options) {
  for (let times = 0; ; times += 1) {
    try {
      return (await ask(run.path, options)).results;
    } catch (error) {
      if (error instanceof Problem && error.results.length > 0) return error.results;
      if (!error.retrySeconds || times === REPEATS || run.stopped) throw error;
      await new Promise((resolve) => {
        setTimeout(resolve, 1000 * error.retrySeconds);
      });
    }
  }
}

function show(run, going) {
  const done = run.total - run.waiting.length;
  const outcomes = Object.entries(run.counts)
    .map(([outcome, count]) => t(`batches.${outcome}`, { count }))
    .join(", ");
  const progress = t("progress.pictures", { done, count: run.total });
  const hasStopped = !going && done < run.total;
  run.bar.value = done;
  run.note.textContent = t(hasStopped ? "batches.stopped" : "batches.going", {
    progress,
    outcomes,
  });
  run.stop.hidden = !going || run.total <= AT_ONCE;
  run.resume.hidden = going || done === run.total;
  run.box.classList.toggle("finished", done === run.total);
}

// A picture that is stored already keeps what it was stored with. Only another time needs a word:
// the file name and the name of the person are in sight.
function notesOf({ problem, duplicate, warnings }) {
  if (problem) return [wordsOfProblem(problem)];
  if (!duplicate)
    return warnings.map((warning) => h("span", { lang: "en" }, `⚠ ${sentence(warning)}`));
  return warnings.some((warning) => warning.includes("captured_at"))
    ? [t("batches.keeps_time")]
    : [];
}

function outcome(run, file, result) {
  const [counted, kind] = result.problem
    ? ["refused", "refused"]
    : result.duplicate
      ? ["there", ""]
      : ["enrolled", "match"];
  run.counts[counted] += 1;
  if (!result.problem) run.names.add(result.identity);
  const notes = notesOf(result);
  const few = run.total <= ALL_LISTED;
  if (!few && notes.length === 0) return null;
  return h(
    "li",
    {},
    few && pictureOf(file, ""),
    h(
      "div",
      { class: "grow" },
      h("b", { class: "name" }, file.webkitRelativePath || file.name),
      !result.problem &&
        h(
          "p",
          { class: "hint name" },
          [nameOf(result.identity), result.camera].filter(Boolean).join(" · "),
        ),
      notes.map((note) => h("p", { class: result.duplicate ? "hint" : "note" }, note)),
    ),
    h("span", { class: `verdict ${kind}` }, t(`batches.outcome.${counted}`)),
  );
}
