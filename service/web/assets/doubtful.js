// Doubtful pictures of people: each beside the picture of another person that it resembles.

import { pages } from "./api.js";
import { openCrop } from "./crop.js";
import { attempt, find, h, percent, thumbnail, whereAndWhen } from "./elements.js";
import { act, named, naming, relabel, report, setAside } from "./naming.js";
import { addressOf, gallery, inGallery, panel } from "./place.js";
import { t } from "./texts.js";
import { call, sendCall } from "./undo.js";

const PAGE = 30;

export function startDoubtful() {
  document.addEventListener("panel-shown", () => load());
  document.addEventListener("gallery-changed", () =>
    load(null, find("#doubtful-list").children.length),
  );
}

async function load(cursor = null, enough = PAGE) {
  if (panel() !== "doubtful") return;
  const shown = gallery();
  const more = find("#more-doubtful");
  const list = find("#doubtful-list");
  find("#doubtful > a").href = addressOf(shown, "identities");
  await attempt(find("#doubtful"), async () => {
    const page = await pages(inGallery("/doubtful"), {}, Math.max(enough, PAGE), cursor);
    if (gallery() !== shown || panel() !== "doubtful") return;
    if (cursor === null) list.replaceChildren();
    list.append(...page.results.map(row));
    const count = list.children.length;
    const areMore = page.next_cursor !== null;
    find("#doubtful-count").textContent =
      count > 0 ? t(areMore ? "pictures.more_than" : "pictures", { count }) : "";
    if (count === 0) list.append(h("li", { class: "hint" }, t("doubtful.none")));
    more.hidden = page.next_cursor === null;
    more.onclick = () => load(page.next_cursor);
  });
}

function row({ crop, other, own_probability: own, other_probability: probability }) {
  const who = t("doubtful.who", { name: crop.identity });
  const button = (label, action, kind = "") =>
    h(
      "button",
      {
        type: "button",
        class: kind,
        "aria-label": t("doubtful.action", { action: label, picture: who }),
        onclick: () => act(() => action(crop, other)),
      },
      label,
    );
  return h(
    "li",
    { "aria-label": who },
    side(
      crop,
      own === null ? t("doubtful.only") : t("doubtful.alike", { probability: percent(own) }),
    ),
    side(other, t("doubtful.alike", { probability: percent(probability) })),
    h(
      "div",
      { class: "row" },
      button(t("set_aside"), setAside),
      button(t("doubtful.belongs", { name: other.identity }), rename),
      button(t("doubtful.right"), confirm, "quiet"),
    ),
  );
}

const side = (crop, likeness) =>
  h(
    "button",
    { type: "button", class: "card", onclick: () => openCrop(crop.crop_id) },
    thumbnail(crop.image_url, t("picture.of", { name: crop.identity })),
    h(
      "span",
      { class: "about" },
      h("b", { class: "name" }, crop.identity),
      h("span", {}, likeness),
      whereAndWhen(crop),
    ),
  );

async function rename(crop, other) {
  const number = await relabel([crop.crop_id], other.identity);
  report(named(number, other.identity), { undo: naming([crop.crop_id], crop.identity) });
}

async function confirm(crop) {
  const path = inGallery(`/doubtful/${encodeURIComponent(crop.crop_id)}/confirmation`);
  await sendCall("PUT", path, []);
  report(t("doubtful.is_right", { name: crop.identity }), { undo: [call("DELETE", path)] });
}
