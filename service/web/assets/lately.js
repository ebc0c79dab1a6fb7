// Changes that can be undone: those of this tab, and merges of the last 30 days.

import { ask } from "./api.js";
import { attempt, find, h, moment } from "./elements.js";
import { act, report, undo } from "./naming.js";
import { gallery, inGallery } from "./place.js";
import { t, textNodes } from "./texts.js";
import { doneLately, twoAgain } from "./undo.js";

export function startLately() {
  find("#lately").addEventListener("click", show);
}

async function show() {
  const inThisTab = h("ul", { class: "rows" });
  const merges = h("ul", { class: "rows" });
  const dialog = h(
    "dialog",
    { class: "question wide", "aria-label": t("lately"), onclose: () => dialog.remove() },
    h("h2", {}, t("lately")),
    h("h3", {}, t("lately.tab")),
    inThisTab,
    h("h3", {}, t("lately.merges")),
    merges,
    h("p", { class: "hint" }, t("lately.hint")),
    h(
      "form",
      { method: "dialog", class: "row end" },
      h("button", { class: "main", autofocus: true }, t("close")),
    ),
  );
  const row = (text, about, takeBack) =>
    h(
      "li",
      {},
      h("span", { class: "grow name" }, text),
      h("span", { class: "hint" }, about),
      h(
        "button",
        {
          type: "button",
          "aria-label": t("lately.undo", { change: text }),
          onclick: () => {
            dialog.close();
            act(takeBack);
          },
        },
        t("undo"),
      ),
    );
  const none = (text) => h("li", { class: "hint" }, text);
  const done = doneLately();
  inThisTab.append(
    ...(done.length > 0
      ? done.map((change) => row(change.outcome, moment(change.at), () => undo(change)))
      : [none(t("lately.none_yet"))]),
  );
  document.body.append(dialog);
  dialog.showModal();
  await attempt(merges, async () => {
    const name = gallery();
    const { results } = await ask(inGallery("/merges"));
    if (gallery() !== name) return;
    const others = results.filter(
      (merge) =>
        !done.some(({ undo: calls }) => calls.some(({ path }) => path.includes(merge.merge_id))),
    );
    merges.append(
      ...(others.length > 0
        ? others.map((merge) =>
            row(
              t("lately.merge", { identity: merge.identity, into: merge.into }),
              textNodes("lately.merge_about", {
                count: merge.crops,
                time: moment(merge.merged_at),
              }),
              () => undoMerge(merge),
            ),
          )
        : [none(t(done.length > 0 ? "lately.no_others" : "lately.none"))]),
    );
  });
}

async function undoMerge({ merge_id: id, identity, into }) {
  await ask(inGallery(`/merges/${encodeURIComponent(id)}/undo`), { method: "POST" });
  report(twoAgain(identity, into));
}
