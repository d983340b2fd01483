// Lists that change under the reader's eyes: rooms to choose from, and a section for each room.
// May not: move what stands in its place, or forget what a reader opened.

import { line } from "./words.js";

/// Puts these in their order and leaves alone what is in its place: what is moved loses the focus.
export function place(parent, wanted) {
    const keep = new Set(wanted);
    for (const child of [...parent.children]) if (!keep.has(child)) child.remove();
    wanted.forEach((child, index) => {
        if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
    });
}

/// Shows `[key, name, number]` as buttons of which one is pressed. `choose` is told the key of the one that is clicked.
export function showChoice(list, rows, pressed, choose) {
    const known = new Map([...list.children].map((item) => [item.dataset.key, item]));
    place(list, rows.map(([key, name, number]) => {
        const item = known.get(key) ?? newChoice(key, choose);
        const [button] = item.children;
        button.firstChild.textContent = name;
        button.lastChild.textContent = number;
        button.setAttribute("aria-pressed", String(key === pressed));
        return item;
    }));
}

function newChoice(key, choose) {
    const [item, button, name, number] = ["li", "button", "bdi", "span"].map((tag) => document.createElement(tag));
    item.dataset.key = key;
    button.append(name, number);
    button.addEventListener("click", () => choose(key));
    item.append(button);
    return item;
}

/// The section of a room, the one that is there if there is one. `chooseAll` is told of a click on that.
export function sectionIn(parent, room, chooseAll) {
    const known = [...parent.children].find((section) => section.dataset.room === room.id);
    const section = known ?? document.getElementById("room-template").content.firstElementChild.cloneNode(true);
    section.dataset.room = room.id;
    if (!known) section.querySelector(".choose-all").addEventListener("click", chooseAll);
    const name = section.querySelector(".room-name");
    name.textContent = room.name;
    name.title = line(room.id);
    section.setAttribute("aria-label", room.name);
    return section;
}
