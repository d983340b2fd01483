// One knock as it is looked at: who, why, since when, what was before, and what may be done.
// May not: send anything, or decide; it tells what was clicked.

import { pastOf } from "./past.js";
import { ago, exactly, hue, idParts, initials, line, plain } from "./words.js";

/// The card of a knock. `act` is told which answer was clicked, `choose` whether the knock is chosen.
export function newCard(knock, { act, choose }) {
    const item = document.getElementById("knock-template").content.firstElementChild.cloneNode(true);
    const part = (selector) => item.querySelector(selector);
    const article = part("article");
    article.dataset.knock = knock.id;
    article.setAttribute("aria-label", `${knock.name} knocks`);
    part(".name").textContent = part(".name-again").textContent = knock.name;
    const avatar = part(".avatar");
    avatar.textContent = initials(knock.name);
    avatar.style.setProperty("--hue", hue(knock.userId));
    const [localpart, server] = idParts(knock.userId);
    part(".localpart").textContent = localpart;
    part(".server").textContent = server;
    part(".id bdi").title = plain(knock.userId);
    const since = part("time");
    since.dataset.at = knock.sinceMs;
    since.textContent = ago(knock.sinceMs);
    since.title = exactly(knock.sinceMs);
    part(".reason").textContent = knock.reason;
    part(".reason").hidden = !knock.reason;
    part(".unfold").addEventListener("click", (event) => {
        const isOpen = part(".reason").classList.toggle("open");
        event.currentTarget.setAttribute("aria-expanded", String(isOpen));
        event.currentTarget.textContent = isOpen ? "Show less" : "Show all";
    });
    part("input").addEventListener("change", (event) => choose(event.currentTarget.checked));
    for (const button of item.querySelectorAll("[data-act]")) {
        button.addEventListener("click", () => act(button.dataset.act));
    }
    return item;
}

/// What can be done about the knock now.
export function showPowers(item, powers, isUnderWay) {
    for (const button of item.querySelectorAll("[data-act]")) {
        button.hidden = !powers[button.dataset.act];
        button.disabled = isUnderWay;
    }
    item.querySelector("article").classList.toggle("under-way", isUnderWay);
}

/// A reason that does not fit can be unfolded; whether it fits is known when it is seen.
export function showFold(article) {
    const reason = article.querySelector(".reason");
    article.querySelector(".unfold").hidden = reason.scrollHeight <= reason.clientHeight + 1;
}

export async function showPast(article, session, knock) {
    const { happened, isCut } = await pastOf(session, knock);
    if (!happened.length) return;
    const telling = happened.find(({ words }) => words !== "knocked") ?? happened[0];
    const details = article.querySelector(".past");
    details.querySelector("summary").textContent = `Here before: ${inLine(telling)}`;
    const items = happened.map((one) => {
        const item = document.createElement("li");
        const words = document.createElement("span");
        words.textContent = inLine(one);
        words.title = exactly(one.atMs);
        item.append(words);
        if (one.reason) {
            const reason = document.createElement("q");
            reason.dir = "auto";
            reason.textContent = one.reason;
            item.append(reason);
        }
        return item;
    });
    if (isCut) {
        const more = document.createElement("li");
        more.textContent = "and more before that";
        items.push(more);
    }
    details.querySelector("ol").replaceChildren(...items);
    details.hidden = false;
}

function inLine({ words, by, atMs }) {
    return `${words}${by ? ` by ${line(by)}` : ""}, ${ago(atMs)}`;
}
