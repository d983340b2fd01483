// Whether an answer is meant, and why it is given.
// May not: give the answer.

import { count, line } from "./words.js";

const TITLES = { accept: "Accept", deny: "Deny", ban: "Ban" };

/// Asks about an answer to these knocks; `go` gets the reason when it is meant.
export function ask(act, knocks, go) {
    const by = (id) => document.getElementById(id);
    const dialog = by("ask");
    const rooms = [...new Set(knocks.map((knock) => knock.room))];
    const where = rooms.length === 1 ? rooms[0].name : count(rooms.length, "room");
    by("ask-title").textContent = `${TITLES[act]} ${knocks.length === 1 ? knocks[0].name : knocks.length}?`;
    by("ask-about").textContent = {
        accept: `They are invited into ${where}.`,
        deny: `They are not let into ${where}. They may knock again.`,
        ban: `They are not let into ${where} and cannot knock again until somebody lifts the ban.`,
    }[act];
    by("ask-whom").replaceChildren(...knocks.map((knock) => {
        const [item, name, id] = ["li", "bdi", "bdi"].map((tag) => document.createElement(tag));
        name.textContent = knock.name;
        id.textContent = line(knock.userId);
        id.dir = "ltr";
        item.append(name, " ", id);
        return item;
    }));
    by("ask-reason").value = "";
    by("ask-go").textContent = TITLES[act];
    by("ask-go").className = act;
    dialog.querySelector("form").onsubmit = (event) => {
        event.preventDefault();
        dialog.close();
        go(by("ask-reason").value.trim());
    };
    dialog.showModal();
    by("ask-reason").focus();
}
