// The knock desk: shows the knocks that the user may answer, keeps them as the server tells, and sends the answers.
// May not: make markup out of text, or take its own word for what the user may do; the server decides.

import { newCard, showFold, showPast, showPowers } from "./card.js";
import { place, sectionIn, showChoice } from "./lists.js";
import { Refused, Session, Unreachable, pause } from "./matrix.js";
import { ask } from "./question.js";
import { Rooms } from "./rooms.js";
import { ago, count, line } from "./words.js";

/// How long a message stays, and after how long times are told anew.
const SAID_MS = 6_000;
const TIMES_MS = 30_000;
/// Pauses of a poll that nobody answers: doubled from the first to the last.
const RETRY_MS = [1_000, 30_000];
/// So many answers are kept to be looked at.
const ANSWERED_MAX = 100;

const ACTS = {
    accept: { action: "invite", membership: "invite", done: "accepted" },
    deny: { action: "kick", membership: "leave", done: "denied" },
    ban: { action: "ban", membership: "ban", done: "banned" },
};
const SHORTCUTS_OFF = "vestibule.desk.shortcuts-off";

const by = (id) => document.getElementById(id);

let session = null;
let rooms = null;
/// Whose knocks are shown: a room's id, or all.
let roomShown = null;
/// Ids of knocks that are chosen, and of those whose answer is under way.
const chosen = new Set();
const underWay = new Set();
/// Cards by the id of their knock, each with the event that it shows.
const cards = new Map();

// --- The session -------------------------------------------------------------------------------------------------------

function showLogin(trouble = "") {
    session = rooms = roomShown = null;
    for (const known of [chosen, underWay, cards]) known.clear();
    by("desk").hidden = true;
    by("login").hidden = false;
    by("answered").hidden = true;
    by("answered").querySelector("ol").replaceChildren();
    by("rooms").replaceChildren();
    by("find").value = "";
    for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
    by("login-trouble").textContent = trouble;
    document.title = "Knocks";
    by("user").focus();
}

function showDesk(begun) {
    session = begun;
    rooms = new Rooms(begun.userId);
    by("login").hidden = true;
    by("password").value = "";
    by("desk").hidden = false;
    by("own-id").textContent = line(begun.userId);
    by("empty").textContent = "Looking who is there…";
    by("empty").hidden = false;
    by("room-list").replaceChildren();
    by("connection").textContent = "";
    by("empty").focus();
    listen(begun, rooms);
}

async function logIn(event) {
    event.preventDefault();
    const button = by("login-go");
    by("login-trouble").textContent = "";
    button.disabled = true;
    try {
        showDesk(await Session.begin(by("user").value.trim(), by("password").value));
    } catch (fault) {
        by("login-trouble").textContent = fault instanceof Refused && fault.status === 403
            ? "No account here has this name and password."
            : inWords(fault);
        by("password").select();
    } finally {
        button.disabled = false;
    }
}

async function logOut() {
    const ended = session;
    const trouble = await ended.end().then(() => "", () => "You are logged out here, but the server could not be told.");
    if (session === ended) showLogin(trouble);
}

/// The server does not know the token any more.
function isOver(fault) {
    return fault instanceof Refused && fault.status === 401;
}

function endSession() {
    session?.forget();
    showLogin("Your session has ended. Please log in again.");
}

/// What went wrong, for who reads it.
function inWords(fault) {
    if (fault instanceof Unreachable) return "The server cannot be reached. Nothing was changed, as far as is known.";
    if (!(fault instanceof Refused)) return "Something went wrong on this page. Please load it again.";
    if (fault.status === 429) return `Too many attempts. Try again in ${count(Math.ceil(fault.retryAfterMs / 1000), "second")}.`;
    if (fault.status === 403) return `The server does not allow it: ${line(fault.message)}.`;
    if (fault.status >= 500) return "The server is in trouble. Try again in a moment.";
    return `The server refuses: ${line(fault.message)}.`;
}

// --- What the server tells ---------------------------------------------------------------------------------------------

async function listen(listening, told) {
    let since;
    let retryMs = RETRY_MS[0];
    const isCurrent = () => session === listening && !listening.ended.signal.aborted;
    while (isCurrent()) {
        try {
            const news = await listening.sync(since);
            if (!isCurrent()) return;
            const isFirst = since === undefined;
            const before = new Set(shownKnocks().map((knock) => knock.eventId));
            for (const room of told.take(news, noteEnd)) room.takeAll(await listening.knocks(room.id));
            since = news.next_batch;
            retryMs = RETRY_MS[0];
            if (!isCurrent()) return;
            by("connection").textContent = "";
            show();
            if (!isFirst) announce(allKnocks().filter((knock) => !before.has(knock.eventId) && isMatch(knock)));
        } catch (fault) {
            if (!isCurrent()) return;
            if (isOver(fault)) return endSession();
            const waitMs = fault instanceof Refused && fault.status === 429 ? fault.retryAfterMs : retryMs;
            by("connection").textContent = fault instanceof Unreachable
                ? `No connection to the server. What you see may be old. Trying again in ${count(Math.ceil(waitMs / 1000), "second")}.`
                : `${inWords(fault)} Trying again in ${count(Math.ceil(waitMs / 1000), "second")}.`;
            retryMs = Math.min(retryMs * 2, RETRY_MS[1]);
            // The network coming back ends the pause.
            const online = new AbortController();
            const goOn = () => online.abort();
            addEventListener("online", goOn, { once: true });
            await pause(waitMs, AbortSignal.any([online.signal, listening.ended.signal])).catch(() => {});
            removeEventListener("online", goOn);
        }
    }
}

function announce(arrived) {
    if (arrived.length === 1) say(`${arrived[0].name} knocks on ${arrived[0].room.name}.`);
    else if (arrived.length > 1) say(`${count(arrived.length, "new knock")}.`);
}

/// A knock is no more, by whosever doing.
function noteEnd(knock, event) {
    chosen.delete(knock.id);
    const { membership, reason } = event.content;
    const isTakenBack = event.sender === knock.userId;
    const done = isTakenBack
        ? { leave: "took the knock back", join: "joined" }[membership] ?? "is not knocking any more"
        : { invite: "accepted", leave: "denied", ban: "banned", join: "joined" }[membership] ?? "answered";
    const whose = event.sender === session?.userId ? "you" : line(event.sender);
    const words = isTakenBack ? done : `${done} by ${whose}`;
    if (!underWay.has(knock.id)) say(`${knock.name}: ${words}.`);
    const list = by("answered").querySelector("ol");
    const [item, name, rest] = ["li", "bdi", "span"].map((tag) => document.createElement(tag));
    name.textContent = knock.name;
    name.title = line(knock.userId);
    rest.textContent = ` ${words}, ${knock.room.name}${reason ? ` (“${line(reason)}”)` : ""}`;
    item.append(name, rest);
    list.prepend(item);
    while (list.children.length > ANSWERED_MAX) list.lastChild.remove();
    by("answered").hidden = false;
}

// --- What is shown -----------------------------------------------------------------------------------------------------

function allKnocks() {
    return rooms ? rooms.answerable.flatMap((room) => rooms.knocksOf(room)) : [];
}

function isMatch(knock) {
    const wanted = by("find").value.trim().toLocaleLowerCase();
    if (roomShown !== null && knock.room.id !== roomShown) return false;
    return !wanted || `${knock.name} ${knock.userId} ${knock.reason}`.toLocaleLowerCase().includes(wanted);
}

function shownKnocks() {
    return allKnocks().filter(isMatch);
}

function show() {
    const all = allKnocks();
    if (roomShown !== null && !rooms.answerable.some((room) => room.id === roomShown)) roomShown = null;
    const shown = all.filter(isMatch);
    const focus = noteFocus();
    showRoomList(all);
    const sections = rooms.answerable.flatMap((room) => {
        const knocks = shown.filter((knock) => knock.room === room);
        return knocks.length ? [sectionOf(room, knocks)] : [];
    });
    place(by("rooms"), sections);
    const present = new Set(all.map((knock) => knock.id));
    for (const id of cards.keys()) if (!present.has(id)) cards.delete(id);
    for (const id of chosen) if (!present.has(id)) chosen.delete(id);
    showEmpty(all.length, shown.length);
    showChosen();
    document.title = all.length ? `(${all.length}) Knocks` : "Knocks";
    focus();
}

function showEmpty(waiting, shown) {
    const empty = by("empty");
    empty.hidden = shown > 0;
    const answerable = rooms.answerable.length;
    if (waiting > 0) empty.textContent = "No knock is like that.";
    else if (answerable === 0) empty.textContent = "There is no room whose knocks you may answer.";
    else empty.textContent = `Nobody is waiting. You answer for ${count(answerable, "room")}.`;
}

function showRoomList(all) {
    const waiting = rooms.answerable.map((room) => [room.id, room.name, all.filter((knock) => knock.room === room).length])
        .filter(([, , number]) => number);
    document.querySelector("nav").hidden = waiting.length < 2;
    showChoice(by("room-list"), [["", "All rooms", all.length], ...waiting], roomShown ?? "", (id) => {
        roomShown = id || null;
        show();
    });
}

function sectionOf(room, knocks) {
    const section = sectionIn(by("rooms"), room, () => {
        const here = shownKnocks().filter((knock) => knock.room.id === room.id);
        const isAll = here.every((knock) => chosen.has(knock.id));
        for (const knock of here) choose(knock.id, !isAll);
        showChosen();
    });
    section.querySelector(".count").textContent = count(knocks.length, "knock");
    place(section.querySelector("ul"), knocks.map(cardOf));
    return section;
}

function cardOf(knock) {
    const known = cards.get(knock.id);
    const isSame = known?.eventId === knock.eventId;
    const item = isSame ? known.item : newCard(knock, {
        act: (act) => begin(act, [knock]),
        choose: (isChosen) => {
            choose(knock.id, isChosen);
            showChosen();
        },
    });
    if (!isSame) {
        cards.set(knock.id, { eventId: knock.eventId, item });
        comesIntoView.observe(item.querySelector("article"));
    }
    showPowers(item, knock.room.powers(knock.userId), underWay.has(knock.id));
    return item;
}

/// What is looked for only when it is looked at: whether a reason is folded, and what was before.
const comesIntoView = new IntersectionObserver((entries) => {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
        comesIntoView.unobserve(target);
        showFold(target);
        const knock = knockOf(target);
        if (knock) showPast(target, session, knock);
    }
}, { rootMargin: "200px" });

function showTimes() {
    for (const time of document.querySelectorAll("time[data-at]")) time.textContent = ago(Number(time.dataset.at));
}

let saidTimer;
function say(words) {
    clearTimeout(saidTimer);
    by("said").textContent = words;
    by("said").classList.add("shown");
    saidTimer = setTimeout(() => by("said").classList.remove("shown"), SAID_MS);
}

// --- Choosing and focus ------------------------------------------------------------------------------------------------

function knockOf(article) {
    return allKnocks().find((knock) => knock.id === article?.dataset.knock);
}

function choose(id, isChosen) {
    if (isChosen) chosen.add(id);
    else chosen.delete(id);
}

function showChosen() {
    for (const [id, { item }] of cards) {
        item.querySelector("input").checked = chosen.has(id);
        item.querySelector("article").classList.toggle("chosen", chosen.has(id));
    }
    by("chosen").hidden = chosen.size === 0;
    by("chosen-count").textContent = `${count(chosen.size, "knock")} chosen`;
    const knocks = chosenKnocks();
    for (const button of by("chosen").querySelectorAll("[data-act]")) {
        button.hidden = !knocks.some((knock) => knock.room.powers(knock.userId)[button.dataset.act]);
    }
}

function chosenKnocks() {
    return allKnocks().filter((knock) => chosen.has(knock.id));
}

function articles() {
    return [...by("rooms").querySelectorAll("article")];
}

function focused() {
    return document.activeElement?.closest("article.knock") ?? null;
}

/// Remembers where the focus is; the answer brings it to what has taken that place, if it is gone.
function noteFocus() {
    const article = focused();
    const place = articles().indexOf(article);
    const active = document.activeElement;
    return () => {
        if (!article || (document.contains(article) && document.contains(active) && !active.disabled)) return;
        const left = articles();
        (document.contains(article) ? article : left[Math.min(place, left.length - 1)] ?? by("empty")).focus();
    };
}

function step(places) {
    const all = articles();
    if (!all.length) return;
    const place = all.indexOf(focused());
    const next = all[place < 0 ? 0 : Math.max(0, Math.min(all.length - 1, place + places))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
}

// --- Answering ---------------------------------------------------------------------------------------------------------

/// Those that the user means: the chosen ones, else the one with the focus.
function meant() {
    const knocks = chosenKnocks();
    const one = knockOf(focused());
    return knocks.length ? knocks : one ? [one] : [];
}

function begin(act, knocks) {
    const able = knocks.filter((knock) => knock.room.powers(knock.userId)[act] && !underWay.has(knock.id));
    if (!able.length) return;
    if (act === "accept" && able.length === 1) answer(act, able, "");
    else ask(act, able, (reason) => answer(act, able, reason));
}

async function answer(act, knocks, reason) {
    const acting = session;
    for (const knock of knocks) underWay.add(knock.id);
    show();
    let done = 0;
    for (const knock of knocks) {
        const trouble = await answerOne(acting, act, knock, reason).then((isDone) => {
            done += isDone ? 1 : 0;
            return "";
        }, (fault) => (isOver(fault) ? null : inWords(fault)));
        underWay.delete(knock.id);
        if (session !== acting) return;
        if (trouble === null) return endSession();
        if (trouble) tellTrouble(knock, trouble);
        else chosen.delete(knock.id);
        show();
    }
    if (knocks.length === 1 && done) say(`${knocks[0].name}: ${ACTS[act].done}.`);
    else if (knocks.length > 1) say(`${done} of ${knocks.length} ${ACTS[act].done}.`);
}

function tellTrouble(knock, words) {
    const place = cards.get(knock.id)?.item.querySelector(".trouble");
    if (place) place.textContent = words;
}

/// Whether it is this answer that counts. Somebody may have been faster, and a kick would then meet a member.
async function answerOne(acting, act, knock, reason) {
    tellTrouble(knock, "");
    const now = await acting.member(knock.room.id, knock.userId);
    if (now.event_id !== knock.eventId) {
        knock.room.take(now, noteEnd);
        return false;
    }
    await acting.answer(knock.room.id, ACTS[act].action, knock.userId, reason, (ms) =>
        say(`The server asks for a pause of ${count(Math.ceil(ms / 1000), "second")}. The rest follows by itself.`));
    knock.room.take({
        type: "m.room.member", state_key: knock.userId, sender: acting.userId, event_id: "",
        content: { membership: ACTS[act].membership, reason },
    }, noteEnd);
    return true;
}

// --- The keyboard ------------------------------------------------------------------------------------------------------

const KEYS = {
    j: () => step(1),
    k: () => step(-1),
    ArrowDown: () => step(1),
    ArrowUp: () => step(-1),
    a: () => begin("accept", meant()),
    d: () => begin("deny", meant()),
    b: () => begin("ban", meant()),
    x: () => focused()?.querySelector("input").click(),
    X: () => {
        for (const knock of shownKnocks()) choose(knock.id, true);
        showChosen();
    },
    o: () => {
        const past = focused()?.querySelector(".past:not([hidden])");
        if (past) past.open = !past.open;
        focused()?.querySelector(".unfold:not([hidden])")?.click();
    },
    "/": () => by("find").focus(),
    "?": () => by("help").showModal(),
    Escape: () => {
        chosen.clear();
        by("find").value = "";
        show();
    },
};

function press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !rooms || document.querySelector("dialog[open]")) return;
    const isTyping = event.target.closest("input:not([type=checkbox]), textarea");
    if (isTyping && event.key !== "Escape") return;
    if (event.key.length === 1 && !by("shortcuts").checked) return;
    const act = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : undefined;
    if (!act) return;
    event.preventDefault();
    if (isTyping) isTyping.blur();
    act();
}

// --- The beginning -----------------------------------------------------------------------------------------------------

by("login-form").addEventListener("submit", logIn);
by("logout").addEventListener("click", logOut);
by("find").addEventListener("input", () => show());
by("choose-none").addEventListener("click", () => {
    chosen.clear();
    showChosen();
});
for (const button of by("chosen").querySelectorAll("[data-act]")) {
    button.addEventListener("click", () => begin(button.dataset.act, chosenKnocks()));
}
by("ask-cancel").addEventListener("click", () => by("ask").close());
by("help-open").addEventListener("click", () => by("help").showModal());
by("help-close").addEventListener("click", () => by("help").close());
by("shortcuts").checked = localStorage.getItem(SHORTCUTS_OFF) === null;
by("shortcuts").addEventListener("change", (event) => {
    if (event.currentTarget.checked) localStorage.removeItem(SHORTCUTS_OFF);
    else localStorage.setItem(SHORTCUTS_OFF, "");
});
addEventListener("keydown", press);
setInterval(showTimes, TIMES_MS);

const kept = Session.kept();
if (kept) showDesk(kept);
else showLogin();
