// Text for people: names, ids and reasons made harmless to look at, times, initials.
// May not: make markup; what leaves here is put on the page as text.

/// Longer names are cut: nobody reads them, and pages should not be made of them.
const NAME_CHARACTERS_MAX = 80;

/// Controls, and what turns the direction of the text around: shown as a mark, because hiding them hides a trick.
/// The marks of direction that Arabic and Hebrew need (U+061C, U+200E, U+200F) turn nothing around and stay.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]/gu;

/// Text over several lines.
export function plain(text) {
    return typeof text === "string" ? text.replaceAll("\r\n", "\n").replace(UNSEEN, "\ufffd").trim() : "";
}

/// Text in one line, cut when it is endless.
export function line(text) {
    const characters = [...plain(text).replace(/\s+/gu, " ")];
    return characters.length > NAME_CHARACTERS_MAX
        ? `${characters.slice(0, NAME_CHARACTERS_MAX).join("")}…`
        : characters.join("");
}

/// A user id before and from its server's name on, each cut by itself: a long name must not push the server out of sight.
export function idParts(userId) {
    const colon = userId.indexOf(":") + 1;
    return [line(userId.slice(0, colon)), line(userId.slice(colon))];
}

/// Up to two letters that stand for a name where there is no picture.
export function initials(name) {
    const words = name.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
    const letters = words.length > 1 ? [words[0], words.at(-1)] : words;
    return letters.map((word) => [...word][0].toLocaleUpperCase()).join("") || "?";
}

/// A color of its own for each user, as a hue.
export function hue(userId) {
    let sum = 0;
    for (const character of userId) sum = (sum * 31 + character.codePointAt(0)) % 360;
    return sum;
}

const STEPS = [["day", 86_400], ["hour", 3_600], ["minute", 60]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/// “3 minutes ago”. Clocks of other servers may be ahead of ours: nothing is said to come.
export function ago(atMs, nowMs = Date.now()) {
    const seconds = Math.max(0, nowMs - atMs) / 1000;
    const step = STEPS.find(([, length]) => seconds >= length);
    return step ? relative.format(-Math.floor(seconds / step[1]), step[0]) : "just now";
}

export function exactly(atMs) {
    const date = new Date(atMs);
    return Number.isNaN(date.getTime()) ? "" : date.toLocaleString();
}

/// “1 knock”, “3 knocks”.
export function count(number, one, many = `${one}s`) {
    return `${number} ${number === 1 ? one : many}`;
}
