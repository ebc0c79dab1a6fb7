// Photos: the service finds the people on them, and keeps nothing. Upright pictures of one person
// are no photos, and are searched for as they are.

import { ask, formOf } from "./api.js";

// The width of a picture of one person is at most this share of its height.
const CROP_RATIO = 0.8;
// Upright pictures of this height may be photos of phones, unless one person fills this share.
const PHOTO_HEIGHT = 640;
const CROP_SHARE = 0.7;
const WANTED = "gmn-find-people";
// A key that may not read the model finds out by asking.
let hasDetector = true;

const offers = () => [...document.querySelectorAll(".find-people")];
const isWanted = () => localStorage.getItem(WANTED) !== "no";

export const findsPeople = () => hasDetector && isWanted();

export function startPhotos() {
  for (const offer of offers()) {
    const box = offer.querySelector("input");
    box.checked = isWanted();
    box.addEventListener("change", () => {
      localStorage.setItem(WANTED, box.checked ? "yes" : "no");
      for (const other of offers()) other.querySelector("input").checked = box.checked;
    });
  }
}

export function setDetector(name) {
  hasDetector = Boolean(name);
  for (const offer of offers()) offer.hidden = !hasDetector;
}

// Return the boxes of the people on a photo in shares of its sides, from left to right.
export async function findPeople(blob) {
  try {
    const answer = await ask("/v1/people", { method: "POST", body: formOf([["images", blob]]) });
    const people = answer.people.sort((first, second) => first.number - second.number);
    return people.map((person) => ({
      x: person.x / answer.width,
      y: person.y / answer.height,
      width: person.width / answer.width,
      height: person.height / answer.height,
      score: person.score,
    }));
  } catch (error) {
    if (error.status === 501) setDetector(null);
    throw error;
  }
}

// Return null for a picture that is searched for as it is. For a photo return the people that were
// found, or the reason why they could not be.
export async function lookAt(blob) {
  const image = await createImageBitmap(blob).catch(() => null);
  if (image === null) return null;
  const { width, height } = image;
  image.close();
  const isUpright = width <= CROP_RATIO * height;
  if (isUpright && (height < PHOTO_HEIGHT || !findsPeople())) return null;
  if (!findsPeople()) return { people: [] };
  try {
    const people = await findPeople(blob);
    const [person] = people;
    const isCrop = isUpright && people.length === 1 && person.width * person.height >= CROP_SHARE;
    return isCrop ? null : { people, looked: true };
  } catch (error) {
    return { people: [], reason: error.message };
  }
}
