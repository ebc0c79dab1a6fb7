// Which gallery and which panel are shown: the address's #gallery/panel, so that a reload keeps it.

function parts() {
  const [gallery = "", panel = ""] = location.hash.slice(1).split("/");
  return { gallery: decodeURIComponent(gallery), panel: panel || "search" };
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

// One part of a path. A browser takes "." and ".." out of a path, whichever way they are written:
// forgetting somebody of that name would reach the gallery itself.
export function segment(name) {
  if (name === "" || name === "." || name === "..") {
    throw new Error(`“${name}” cannot stand in an address; no call of the service reaches it`);
  }
  return encodeURIComponent(name);
}

// Tells every panel that what the gallery holds is no longer what it shows.
export function changed() {
  document.dispatchEvent(new Event("gallery-changed"));
}
