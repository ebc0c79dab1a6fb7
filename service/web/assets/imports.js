// Imports and other jobs: sends an archive, lists the jobs, and follows each to its end.

import { ask, formOf } from "./api.js";
import { attempt, download, find, h, moment, onSubmit, question } from "./elements.js";
import { changed, gallery, inGallery, panel } from "./place.js";
import { t } from "./texts.js";

const PARTS = ["landed", "duplicates", "not_kept", "refused", "ignored", "deleted", "unchecked"];
const GOING = ["queued", "running"];
const AGAIN_MS = 1000;

export function startImports() {
  onSubmit(find("#import"), (form) =>
    attempt(form, async () => {
      addJob(
        await ask(inGallery("/imports"), { method: "POST", body: formOf(new FormData(form)) }),
      );
      form.reset();
    }),
  );
  document.addEventListener("panel-shown", list);
  document.addEventListener("gallery-chosen", list);
}

// Return the list of jobs of the panel that is shown.
const place = () => find(`#${panel()} .jobs`);

export function addJob(job) {
  const { kind } = place().dataset;
  // A list of one kind shows only the newest job.
  if (kind) place().replaceChildren();
  place().querySelector(".none")?.remove();
  place().prepend(rowOf(job));
  place().firstChild.scrollIntoView({ block: "nearest" });
}

async function list() {
  if (!place()) return;
  await attempt(place(), async () => {
    const asked = new URLSearchParams({ gallery: gallery(), limit: 10 });
    const jobs = (await ask(`/v1/jobs?${asked}`)).results;
    const kind = place()?.dataset.kind;
    const results = kind ? jobs.filter((job) => job.kind === kind).slice(0, 1) : jobs;
    const none = h("li", { class: "hint none" }, t("jobs.none"));
    place()?.replaceChildren(...(results.length > 0 || kind ? results.map(rowOf) : [none]));
  });
}

function rowOf(job) {
  const row = h("li", { class: "job" });
  draw(row, job);
  if (GOING.includes(job.state)) watch(row, job);
  return row;
}

async function watch(row, job) {
  await attempt(row, async () => {
    let { state } = job;
    while (GOING.includes(state)) {
      // A stream of events would hold one of the six connections that a browser makes to a host.
      await new Promise((resolve) => {
        setTimeout(resolve, AGAIN_MS);
      });
      // Stop following when the jobs of another gallery have replaced the row.
      if (!row.isConnected) return;
      const progress = await ask(`/v1/jobs/${encodeURIComponent(job.job_id)}`);
      state = progress.state;
      draw(row, progress);
    }
    changed();
  });
}

function draw(row, job) {
  const { total = 0, done = 0 } = job.progress;
  const path = `/v1/jobs/${encodeURIComponent(job.job_id)}`;
  const parts = PARTS.filter((part) => part in job.progress).map((part) =>
    t(`jobs.part.${part}`, { count: job.progress[part] }),
  );
  const going = GOING.includes(job.state);
  // A job that failed before its first image has no progress.
  const began = going || total > 0;
  const bar = h("progress", { max: total || 1, "aria-label": t("progress") });
  if (total > 0) bar.value = done;
  row.replaceChildren(
    ...[
      h(
        "div",
        { class: "grow" },
        h(
          "p",
          {},
          h("b", {}, t(`jobs.kind.${job.kind}`)),
          ` ${t(`jobs.state.${job.state}`)} · `,
          moment(job.created_at),
        ),
        going && bar,
        began &&
          h(
            "p",
            { class: "hint" },
            [t("progress.pictures", { done, count: total }), ...parts].join(", "),
          ),
        resultOf(job),
      ),
      job.problems > 0 &&
        h(
          "button",
          {
            type: "button",
            onclick: () =>
              attempt(row, () => download(`${path}/report`, `import-${job.job_id}.csv`)),
          },
          t("jobs.problems", { count: job.problems }),
        ),
      going &&
        h(
          "button",
          {
            type: "button",
            class: "danger quiet",
            onclick: () => attempt(row, () => ask(path, { method: "DELETE" })),
          },
          t("stop"),
        ),
      panel() === "galleries" &&
        job.kind === "import" &&
        job.progress.landed > 0 &&
        !going &&
        h(
          "button",
          {
            type: "button",
            class: "danger quiet",
            onclick: () => attempt(row, () => removeBrought(job)),
          },
          t("imports.remove"),
        ),
    ].filter(Boolean),
  );
}

// Say what came of a job beyond its counts. Why it failed are the service’s own words.
function resultOf({ kind, state, detail, progress }) {
  if (detail === null) return null;
  if (state === "failed") return h("p", { class: "note", lang: "en" }, detail);
  if (kind === "reindex") return h("p", { class: "hint" }, t("jobs.up_to_date"));
  if (kind !== "grouping") return null;
  const values = { groups: t("groups.count", { count: progress.groups }), count: progress.grouped };
  return h("p", { class: "hint" }, t("jobs.grouped", values));
}

async function removeBrought(job) {
  const path = inGallery(`/imports/${encodeURIComponent(job.job_id)}/crops`);
  const counted = await ask(path, { method: "DELETE", body: formOf([["dry_run", "true"]]) });
  const since = ["renamed", "reviewed", "in_cases"]
    .filter((change) => counted[change] > 0)
    .map((change) => t(`imports.remove.${change}`, { count: counted[change] }));
  const text = [
    `${t("imports.remove.deleted", { count: counted.crops })} `,
    since.length > 0 && h("b", {}, `${t("imports.remove.since", { changes: since.join(", ") })} `),
    counted.duplicates > 0 && `${t("imports.remove.stay", { count: counted.duplicates })} `,
    t("final"),
  ];
  const removes = await question(t("imports.remove.ask"), text, t("imports.remove.do"), {
    danger: true,
  });
  if (!removes) return;
  addJob((await ask(path, { method: "DELETE" })).job);
}
