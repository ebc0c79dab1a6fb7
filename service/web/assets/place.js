// The gallery, the panel and its item, stored in the address as #gallery/panel/item.

import { t } from "./texts.js";

const PANELS = [...document.querySelectorAll("main > section")].map((section) => section.id);

function parts() {
  const [gallery = "", panel = "", item = ""] = location.hash.slice(1).split("/");
  return {
    gallery: decoded(gallery),
    panel: PANELS.includes(panel) ? panel : PANELS[0],
    item: decoded(item),
  };
}

// A typed or cut-off address may not be decodable. No gallery has such a name.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export const gallery = () => parts().gallery;
export const panel = () => parts().panel;
// Return the kept search, case or identity that the panel shows; empty for its list.
export const item = () => parts().item;

export function addressOf(gallery, panel, item = "") {
  return `#${encodeURIComponent(gallery)}/${panel}${item && `/${encodeURIComponent(item)}`}`;
}

// Return a path below the gallery that is shown.
export function inGallery(rest) {
  return `/v1/galleries/${segment(gallery())}${rest}`;
}

// Encode a segment of a path. A browser removes "." and ".." from paths in every spelling, so that
// forgetting an identity of that name would delete the gallery itself.
export function segment(name) {
  if (name === "" || name === "." || name === "..") {
    throw new Error(t("address.unfit", { name }));
  }
  return encodeURIComponent(name);
}

// Scripts in whose words the service takes U+200C and U+200D, between two letters or marks.
const JOINING =
  "Arab|Beng|Deva|Gujr|Guru|Khmr|Knda|Mlym|Mong|Mymr|Nkoo|Orya|Sinh|Syrc|Taml|Telu".split("|");
const JOINERS = JOINING.map((script) => {
  const letter = `[[\\p{L}\\p{M}]&&\\p{Script=${script}}]`;
  return `(?<=${letter})[\\u200c\\u200d](?=${letter})`;
});
const UNFIT = new RegExp(`(?!${JOINERS.join("|")})[\\p{C}\\p{Zl}\\p{Zp}]`, "gv");

// Return the external id of a picture: its file name, which the service cannot know.
export const fileId = ({ webkitRelativePath: path, name = "" }) =>
  (path || name)
    .slice(-256)
    .replace(UNFIT, "?")
    .replace(/\p{Zs}/gu, " ");

// The other tabs of this browser, which are told of changes without the service.
export const tabs = new BroadcastChannel("gmn-galleries");
// A search that is not kept has no decisions, and would be run again to be shown.
export const KEPT_SEARCH = "kept search";
// Where decisions and notes are shown.
export const OF_SEARCHES = [KEPT_SEARCH, "cases"];
// Tell the other tabs of a change that concerns everything that is shown of a gallery, or a part.
export const tellTabs = (parts = [...PANELS, KEPT_SEARCH], name = gallery()) =>
  tabs.postMessage({ name, parts });

// Notify all panels and tabs that the gallery has changed.
export function changed() {
  document.dispatchEvent(new Event("gallery-changed"));
  tellTabs();
}
