// The gallery and the panel shown, kept in the address as #gallery/panel across reloads.

const PANELS = ["search", "enroll", "identities"];

function parts() {
  const [gallery = "", panel = ""] = location.hash.slice(1).split("/");
  return { gallery: decoded(gallery), panel: PANELS.includes(panel) ? panel : "search" };
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

export function addressOf(gallery, panel) {
  return `#${encodeURIComponent(gallery)}/${panel}`;
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

// Notifies every panel that the gallery has changed.
export function changed() {
  document.dispatchEvent(new Event("gallery-changed"));
}
