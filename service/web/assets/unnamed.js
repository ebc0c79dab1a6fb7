// Unnamed crops: grouped into suggested people, and named by group or by choice.

import { ask, formOf, pages } from "./api.js";
import { attempt, find, h, nothingYet, onSubmit, percent } from "./elements.js";
import { addJob } from "./imports.js";
import { showVisits } from "./line.js";
import { act, askForName, askToDelete, nameCrops } from "./naming.js";
import { addressOf, gallery, inGallery, panel, segment } from "./place.js";
import { t } from "./texts.js";
import { chooser } from "./tiles.js";
import { pictureOfCrop } from "./visits.js";

// Crops that are read with their labels; a grouping may have twenty times as many.
const CROPS = 5000;
const SMALL = 4;
const SHOWN_CROPS = 120;
const SHOWN_GROUPS = 20;
const PROPOSED = 3;

export function startUnnamed() {
  for (const event of ["panel-shown", "gallery-changed"]) document.addEventListener(event, load);
  find("#which").addEventListener("change", load);
  find("#which").addEventListener("submit", (event) => event.preventDefault());
  find("#group").addEventListener("click", () =>
    act(async () =>
      addJob(
        await ask(inGallery("/groups"), { method: "POST", body: formOf(Object.entries(chosen())) }),
      ),
    ),
  );
}

async function load() {
  if (panel() !== "unnamed") return;
  const name = gallery();
  const place = find("#unnamed-crops");
  find("#unnamed > a").href = addressOf(name, "identities");
  await attempt(place, async () => {
    const { camera, ...times } = chosen();
    const [found, groups, people] = await Promise.all([
      pages(inGallery("/crops"), { unnamed: "true", order: "captured", ...chosen() }, CROPS),
      ask(inGallery("/groups")),
      ask(inGallery(`/groups/count?${new URLSearchParams(times)}`)),
    ]);
    if (gallery() !== name || panel() !== "unnamed") return;
    const loose = new Map(found.results.map((crop) => [crop.crop_id, crop]));
    const grouped = chosenGroups(groups.results, loose, found.next_cursor !== null);
    find("#people-count").textContent = peopleWords(people, groups, {
      camera,
      hasTimes: Object.keys(times).length > 0,
    });
    find("#group").disabled = loose.size === 0;
    find("#group").classList.toggle("main", loose.size > 0 && grouped.length === 0);
    find("#of-groups").hidden = grouped.length === 0;
    const areMore = found.next_cursor !== null;
    find("#unnamed-count").textContent =
      loose.size === 0
        ? ""
        : t(areMore ? "unnamed.more_than" : "unnamed.count", { count: loose.size });
    if (loose.size === 0) {
      place.replaceChildren(
        nothingYet(
          t("unnamed.none"),
          t("unnamed.none.hint"),
          addressOf(gallery(), "enroll"),
          t("enroll.pictures"),
        ),
      );
      return;
    }
    const typed = document.activeElement?.closest("#unnamed-crops");
    for (const crop of grouped.flatMap(({ crops }) => crops)) loose.delete(crop.crop_id);
    place.replaceChildren(h("div", {}), rest([...loose.values()], grouped.length > 0, areMore));
    showGroups(place.firstChild, grouped);
    if (typed) place.querySelector("input[list]")?.focus();
  });
}

// Return groups with their crops that pass the camera and times of the form. If there are more
// unnamed crops than were read, groups are shown whole, and those that were not read as ids alone.
function chosenGroups(groups, loose, areMore) {
  const isChosen = Object.keys(chosen()).length > 0;
  return groups
    .filter(({ crop_ids: ids }) => !isChosen || ids.some((id) => loose.has(id)))
    .map((group) => ({
      ...group,
      crops: group.crop_ids
        .filter((id) => areMore || loose.has(id))
        .map((id) => loose.get(id) ?? unread(id)),
    }))
    .filter(({ crops }) => crops.length > 1);
}

const unread = (id) => ({
  crop_id: id,
  identity: null,
  image_url: pictureOfCrop(gallery(), id),
});

// Say how many people there are, with the interval, and which pictures are not counted.
function peopleWords(counted, groups, { camera, hasTimes }) {
  const { people, fewest, most, named, ungrouped_crops: ungrouped } = counted;
  if (groups.job_id === null) return ungrouped === 0 ? "" : t("groups.wanted");
  const chosenParts = [hasTimes && "times", camera && "cameras"].filter(Boolean);
  const where = t(`groups.on.${chosenParts.join("_") || "all"}`);
  const key = fewest === most ? "groups.people" : "groups.people_range";
  return [
    t(key, { count: people, where, fewest, most }),
    named > 0 && t("groups.named", { count: named }),
    ungrouped > 0 && t("groups.not_counted", { count: ungrouped }),
  ]
    .filter(Boolean)
    .join(" ");
}

// Return the camera and times that restrict the list and a grouping.
function chosen() {
  return Object.fromEntries(
    [...formOf(new FormData(find("#which")))].map(([name, value]) => [
      name,
      name === "camera" ? value : new Date(value).toISOString(),
    ]),
  );
}

function showGroups(place, grouped) {
  const more = h(
    "button",
    { type: "button", class: "more-groups", onclick: () => next() },
    t("groups.more"),
  );
  let shown = 0;
  const next = () => {
    more.before(
      ...grouped.slice(shown, shown + SHOWN_GROUPS).map((one, at) => group(one, shown + at + 1)),
    );
    shown += SHOWN_GROUPS;
    more.hidden = shown >= grouped.length;
  };
  place.append(more);
  next();
}

function group({ group_id: id, crops, tracks, probability }, number) {
  const field = h("input", {
    maxlength: 256,
    required: true,
    list: "names",
    placeholder: t("name"),
    "aria-label": t("group.name", { number }),
  });
  // A large group may contain another person, so a person chooses its pictures.
  const small = crops.length <= SMALL;
  const tiles = chooser(
    t("group.pictures", { number }),
    [[t("group.leave_out"), (ids) => tiles.remove(ids), "quiet"]],
    { chosen: small },
  );
  tiles.add(crops);
  const proposals = h("span", { class: "row" });
  const visits = h("section", { class: "visits", "aria-label": t("group.visits", { number }) });
  const form = h(
    "form",
    { class: "row" },
    field,
    h("button", { class: "main" }, t("group.name_chosen")),
    h(
      "button",
      { type: "button", onclick: () => act(() => propose(crops[0], field, proposals)) },
      t("group.who"),
    ),
    h(
      "button",
      { type: "button", onclick: ({ target }) => toggleVisits(target, visits, id) },
      t("group.where"),
    ),
    proposals,
  );
  onSubmit(form, () => nameCrops(tiles.chosen(), null, field.value));
  return h(
    "section",
    { class: "group", "aria-label": t("group", { number }), tabindex: -1 },
    h(
      "h3",
      {},
      t("group.title", { number, count: crops.length }),
      " ",
      h(
        "span",
        { class: "sure" },
        t("group.sure", { count: tracks, probability: percent(probability) }),
      ),
    ),
    form,
    tiles.element,
    visits,
  );
}

async function toggleVisits(button, place, id) {
  const isShown = place.children.length > 0;
  button.setAttribute("aria-expanded", String(!isShown));
  if (isShown) {
    place.replaceChildren();
    return;
  }
  await showVisits(place, inGallery(`/groups/${segment(id)}/visits`));
  // They stand below the pictures of the group, which may fill the window.
  place.scrollIntoView({ block: "nearest" });
}

// Offer the named people most similar to a crop as buttons that fill in the name.
async function propose(crop, field, place) {
  const body = formOf([
    ["crop_id", crop.crop_id],
    ["group_by", "identity"],
    ["top_k", 100],
  ]);
  const { results } = await ask(inGallery("/queries"), { method: "POST", body });
  const named = results
    .filter((person) => person.identity !== null && person.verdict !== "no_match")
    .slice(0, PROPOSED);
  place.replaceChildren(
    ...named.map((person) =>
      h(
        "button",
        {
          type: "button",
          class: "chip",
          onclick: () => {
            field.value = person.identity;
            field.focus();
          },
        },
        h("span", { class: "name" }, person.identity),
        ` ${percent(person.probability)}`,
      ),
    ),
    named.length === 0 ? t("group.nobody") : "",
  );
}

function rest(crops, afterGroups, areMore) {
  const tiles = chooser(t("unnamed.pictures"), [
    [t("name.give.more"), (ids) => askForName(ids, null)],
    [t("delete.more"), askToDelete, "danger quiet"],
  ]);
  const button = h("button", { type: "button", onclick: () => next() }, t("show_more"));
  let shown = 0;
  const next = () => {
    tiles.add(crops.slice(shown, shown + SHOWN_CROPS));
    shown += SHOWN_CROPS;
    button.hidden = shown >= crops.length;
  };
  next();
  return h(
    "section",
    { hidden: crops.length === 0 },
    afterGroups &&
      h("h3", {}, t(areMore ? "unnamed.rest_more" : "unnamed.rest", { count: crops.length })),
    tiles.element,
    button,
  );
}
