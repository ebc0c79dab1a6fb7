// The gallery, the panel and what it shows, kept in the address as #gallery/panel/item.

const PANELS = [...document.querySelectorAll("main > section")].map((section) => section.id);

function parts() {
  const [gallery = "", panel = "", item = ""] = location.hash.slice(1).split("/");
  return { gallery: decoded(gallery), panel: PANELS.includes(panel) ? panel : PANELS[0], item: decoded(item) };
}

// An address that was cut off, or typed, may not be decodable; no gallery has such a name.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export const gallery = () => parts().gallery;
export const panel = () => parts().panel;
// A kept search, a case or an identity that the panel shows; empty where it shows its list.
export const item = () => parts().item;

export function addressOf(gallery, panel, item = "") {
  return `#${encodeURIComponent(gallery)}/${panel}${item && `/${encodeURIComponent(item)}`}`;
}

// A path below the gallery that is shown.
export function inGallery(rest) {
  return `/v1/galleries/${segment(gallery())}${rest}`;
}

// One segment of a path. A browser removes "." and ".." from a path in every spelling, so that
// forgetting an identity of that name would delete the gallery itself.
export function segment(name) {
  if (name === "" || name === "." || name === "..") {
    throw new Error(`“${name}” cannot be part of an address; no call of the service reaches it`);
  }
  return encodeURIComponent(name);
}

// What a picture is known by in the gallery: its file, which the service cannot know.
export const fileId = ({ webkitRelativePath: path, name = "" }) => (path || name).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "?").replace(/\p{Zs}/gu, " ").slice(-256);

// Notifies every panel that the gallery has changed.
export function changed() {
  document.dispatchEvent(new Event("gallery-changed"));
}
