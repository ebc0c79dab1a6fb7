// The time a picture was taken, from the EXIF data of a JPEG or from the file name.

const HEAD = 128 * 1024;
const NAMED =
  /(?:^|\D)((?:19|20)\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])[T_ .-]+(?:at )?([01]\d|2[0-3])[-_.:h]?([0-5]\d)(?:[-_.:m]?([0-5]\d))?(?!\d)/;
const EXIF_PART = 0x8769;
const CHANGED = 0x0132;
const TAKEN = 0x9003;
const OFFSET = 0x9011;

// Return null if the file does not have it. Without an offset, the browser's time zone is assumed.
export async function takenAt(file) {
  const [, ...parts] = NAMED.exec(file.name) ?? [];
  const [year, month, day, hour, minute, second = "00"] = parts;
  const text =
    (await exifTime(file).catch(() => null)) ??
    (year && `${year}-${month}-${day}T${hour}:${minute}:${second}`);
  const at = text ? new Date(text) : null;
  return at && !Number.isNaN(at.getTime()) ? at : null;
}

async function exifTime(file) {
  const view = new DataView(await file.slice(0, HEAD).arrayBuffer());
  if (view.getUint16(0) !== 0xffd8) return null;
  // Read the segments of a JPEG before its pixels. EXIF is in one of the first.
  for (
    let at = 2;
    at + 10 < view.byteLength && view.getUint8(at) === 0xff;
    at += 2 + view.getUint16(at + 2)
  ) {
    if (view.getUint16(at) === 0xffe1 && view.getUint32(at + 4) === 0x45786966)
      return timeOf(new DataView(view.buffer, at + 10));
  }
  return null;
}

function timeOf(view) {
  const little = view.getUint16(0) === 0x4949;
  const entries = (start) =>
    new Map(
      [...Array(view.getUint16(start, little)).keys()]
        .map((number) => start + 2 + 12 * number)
        .map((at) => [view.getUint16(at, little), at]),
    );
  const text = (at) =>
    at &&
    String.fromCharCode(
      ...new Uint8Array(
        view.buffer,
        view.byteOffset +
          (view.getUint32(at + 4, little) > 4 ? view.getUint32(at + 8, little) : at + 8),
        view.getUint32(at + 4, little),
      ),
    )
      .replaceAll("\0", "")
      .trim();
  const first = entries(view.getUint32(4, little));
  const exif = first.has(EXIF_PART)
    ? entries(view.getUint32(first.get(EXIF_PART) + 8, little))
    : new Map();
  const found = /^(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)$/.exec(
    text(exif.get(TAKEN)) ?? text(first.get(CHANGED)) ?? "",
  );
  return (
    found &&
    `${found[1]}-${found[2]}-${found[3]}T${found[4]}${/^[+-]\d\d:\d\d$/.exec(text(exif.get(OFFSET)) ?? "") ?? ""}`
  );
}
