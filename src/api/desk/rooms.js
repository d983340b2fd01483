// What the page knows of rooms and knocks: folded from what the server tells, event by event.
// May not: ask the server, or touch the page.

import { powers } from "./levels.js";
import { line, plain } from "./words.js";

/// A knock that waits for an answer.
function knockOf(room, event) {
    const { displayname, reason } = event.content;
    const receivedMs = Number.isSafeInteger(event.unsigned?.age) ? Date.now() - event.unsigned.age : event.origin_server_ts;
    return {
        id: `${room.id} ${event.state_key}`,
        room,
        userId: event.state_key,
        eventId: event.event_id,
        name: line(displayname) || line(event.state_key.slice(1).split(":")[0]),
        reason: plain(reason),
        // Our server's word, not that of the server that sent it.
        sinceMs: receivedMs,
    };
}

export class Room {
    constructor(id, actor) {
        this.id = id;
        this.actor = actor;
        this.state = new Map();
        this.knocks = new Map();
        /// Whether the knocks are all that there are.
        this.isComplete = false;
    }

    get name() {
        const of = (type, key) => line(this.state.get(type)?.content[key]);
        return of("m.room.name", "name") || of("m.room.canonical_alias", "alias") || this.id;
    }

    /// What the user may do about a knock of `userId`.
    powers(userId) {
        const create = this.state.get("m.room.create");
        if (!create) return { accept: false, deny: false, ban: false };
        return powers(create, this.state.get("m.room.power_levels")?.content, this.actor, userId);
    }

    /// Whether the user may do anything about somebody without a level of their own, as those who knock are.
    get isAnswerable() {
        const { accept, deny, ban } = this.powers("");
        return accept || deny || ban;
    }

    /// Takes an event. A knock that it ends is told to `ended`.
    take(event, ended) {
        if (event.state_key === undefined || typeof event.content !== "object") return;
        if (event.type !== "m.room.member") {
            if (event.state_key === "") this.state.set(event.type, event);
            return;
        }
        const known = this.knocks.get(event.state_key);
        if (event.content.membership === "knock") {
            if (known?.eventId !== event.event_id) this.knocks.set(event.state_key, knockOf(this, event));
        } else if (known) {
            this.knocks.delete(event.state_key);
            ended(known, event);
        }
    }

    /// Takes the whole list of pending knocks.
    takeAll(events) {
        const known = this.knocks;
        this.knocks = new Map();
        for (const event of events) {
            const same = known.get(event.state_key);
            this.knocks.set(event.state_key, same?.eventId === event.event_id ? same : knockOf(this, event));
        }
        this.isComplete = true;
    }
}

/// All rooms in which a user is.
export class Rooms {
    constructor(userId) {
        this.userId = userId;
        this.byId = new Map();
    }

    /// Takes what one sync told. The rooms whose knocks have to be asked for are the answer.
    take(news, ended) {
        for (const [section, rooms] of Object.entries(news.rooms ?? {})) {
            if (section !== "join") for (const id of Object.keys(rooms)) this.byId.delete(id);
        }
        for (const [id, told] of Object.entries(news.rooms?.join ?? {})) {
            const room = this.byId.get(id) ?? new Room(id, this.userId);
            this.byId.set(id, room);
            if (told.timeline?.limited) room.isComplete = false;
            for (const event of [...(told.state?.events ?? []), ...(told.timeline?.events ?? [])]) room.take(event, ended);
        }
        return this.answerable.filter((room) => !room.isComplete);
    }

    get answerable() {
        const rooms = [...this.byId.values()].filter((room) => room.isAnswerable);
        return rooms.sort((one, other) => one.name.localeCompare(other.name) || (one.id < other.id ? -1 : 1));
    }

    /// The pending knocks that the user may answer, the oldest first.
    knocksOf(room) {
        const knocks = [...room.knocks.values()].filter(({ userId }) => Object.values(room.powers(userId)).some(Boolean));
        return knocks.sort((one, other) => one.sinceMs - other.sinceMs);
    }
}
