// Imports and other jobs: sends an archive, lists the jobs, and follows each to its end.

import { ask, follow, formOf } from "./api.js";
import { attempt, count, download, find, h, moment, onSubmit, question } from "./elements.js";
import { changed, gallery, inGallery, panel } from "./place.js";

const STATES = {
  queued: "waiting",
  running: "running",
  done: "✓ done",
  failed: "✕ failed",
  cancelled: "– stopped",
};
const PARTS = {
  landed: "stored",
  duplicates: "already stored",
  not_kept: "not kept",
  refused: "refused",
  ignored: "ignored",
  deleted: "deleted before and left out",
};
const KINDS = {
  import: "Import",
  reindex: "Reindex",
  grouping: "Grouping",
  removal: "Removal of what an import brought",
};
const GOING = ["queued", "running"];

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
    // A list of one kind shows only the newest job.
    const results = kind ? jobs.filter((job) => job.kind === kind).slice(0, 1) : jobs;
    const none = h("li", { class: "hint none" }, "No jobs yet. An import shows its progress here.");
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
    for await (const progress of follow(`/v1/jobs/${encodeURIComponent(job.job_id)}/events`)) {
      // Stop following when the jobs of another gallery have replaced the row.
      if (!row.isConnected) return;
      draw(row, progress);
      if (GOING.includes(progress.state)) continue;
      changed();
      return;
    }
  });
}

function draw(row, job) {
  const { total = 0, done = 0 } = job.progress;
  const path = `/v1/jobs/${encodeURIComponent(job.job_id)}`;
  const parts = Object.entries(PARTS)
    .filter(([name]) => name in job.progress)
    .map(([name, words]) => `${job.progress[name].toLocaleString()} ${words}`);
  const going = GOING.includes(job.state);
  // A job that failed before its first image has no progress.
  const began = going || total > 0;
  const bar = h("progress", { max: total || 1, "aria-label": "Progress" });
  if (total > 0) bar.value = done;
  row.replaceChildren(
    ...[
      h(
        "div",
        { class: "grow" },
        h(
          "p",
          {},
          h("b", {}, KINDS[job.kind] ?? job.kind),
          ` ${STATES[job.state]} · `,
          moment(job.created_at),
        ),
        going && bar,
        began &&
          h(
            "p",
            { class: "hint" },
            [`${done.toLocaleString()} of ${count(total, "picture")}`, ...parts].join(", "),
          ),
        job.detail && h("p", { class: job.state === "done" ? "hint" : "note" }, job.detail),
      ),
      job.problems > 0 &&
        h(
          "button",
          {
            type: "button",
            onclick: () =>
              attempt(row, () => download(`${path}/report`, `import-${job.job_id}.csv`)),
          },
          count(job.problems, "problem"),
          " (CSV)",
        ),
      going &&
        h(
          "button",
          {
            type: "button",
            class: "danger quiet",
            onclick: () => attempt(row, () => ask(path, { method: "DELETE" })),
          },
          "Stop",
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
          "Remove what it brought…",
        ),
    ].filter(Boolean),
  );
}

async function removeBrought(job) {
  const path = inGallery(`/imports/${encodeURIComponent(job.job_id)}/crops`);
  const counted = await ask(path, { method: "DELETE", body: formOf([["dry_run", "true"]]) });
  const since = [
    counted.renamed > 0 && `${counted.renamed.toLocaleString()} renamed`,
    counted.reviewed > 0 && `${counted.reviewed.toLocaleString()} reviewed`,
    counted.in_cases > 0 && `${counted.in_cases.toLocaleString()} in cases`,
  ].filter(Boolean);
  const text = [
    `${count(counted.crops, "picture is", "pictures are")} deleted. `,
    since.length > 0 && h("b", {}, `Since the import: ${since.join(", ")}. `),
    counted.duplicates > 0 &&
      `${count(counted.duplicates, "picture")} that the gallery had before stay. `,
    "This cannot be undone.",
  ];
  if (!(await question("Remove what this import brought?", text, "Remove", { danger: true })))
    return;
  addJob((await ask(path, { method: "DELETE" })).job);
}
