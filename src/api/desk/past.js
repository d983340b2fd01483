// What was before a knock: how earlier knocks of the same user in the same room ended, read from event to replaced event.
// May not: touch the page, or go back without end.

import { plain } from "./words.js";

/// So many events are looked at. Ours: what fits on a page, and bounds the requests for each knock.
const STEPS_MAX = 12;

/// What happened when `event` replaced `before`: `{ words, by, atMs, reason }`, null for what says nothing new.
function told(event, before) {
    const { membership } = event.content;
    const was = before?.content.membership;
    const isOwn = event.sender === event.state_key;
    const words = {
        knock: () => "knocked",
        invite: () => (was === "knock" ? "accepted" : "invited"),
        join: () => (was === "join" ? null : "joined"),
        ban: () => (was === "knock" ? "knock answered with a ban" : "banned"),
        leave: () => {
            if (isOwn) return { knock: "took the knock back", invite: "declined the invite" }[was] ?? "left";
            return { knock: "denied", invite: "invite withdrawn", ban: "ban lifted" }[was] ?? "removed";
        },
    }[membership]?.();
    if (!words) return null;
    return { words, by: isOwn ? null : event.sender, atMs: event.origin_server_ts, reason: plain(event.content.reason) };
}

/// What happened before the knock, the newest first, and whether there was more.
export async function pastOf(session, knock) {
    const events = [];
    let next = knock.eventId;
    while (next && events.length <= STEPS_MAX) {
        const event = await session.event(knock.room.id, next).catch(() => null);
        if (!event) break;
        events.push(event);
        next = event.unsigned?.replaces_state;
    }
    const before = events.slice(1);
    return {
        happened: before.map((event, place) => told(event, before[place + 1])).filter(Boolean),
        isCut: Boolean(next),
    };
}
