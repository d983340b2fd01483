// Who may answer a knock, as the rules of power levels say. What the page offers follows from it; the server judges anew.
// May not: know of pages or requests; it is given a room's state.
//
// https://spec.matrix.org/v1.19/client-server-api/#mroompower_levels

/// From version 12 on, those who made a room stand above all levels.
const VERSIONS_WITHOUT_CREATORS = new Set(["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]);

/// In rooms up to version 9 a level may be text.
const VERSIONS_WITH_TEXT = new Set(["1", "2", "3", "4", "5", "6", "7", "8", "9"]);

/// A level as the room's version allows it to be written. What cannot be read gives nobody anything: it is `unreadable`.
function level(create, value, absent, unreadable) {
    if (value === undefined) return absent;
    const isText = typeof value === "string" && VERSIONS_WITH_TEXT.has(create.content.room_version ?? "1");
    const number = isText && /^\s*[+-]?\d+\s*$/u.test(value) ? Number(value) : value;
    return Number.isSafeInteger(number) ? number : unreadable;
}

function standsAboveLevels(create, userId) {
    if (VERSIONS_WITHOUT_CREATORS.has(create.content.room_version ?? "1")) return false;
    const others = create.content.additional_creators;
    return create.sender === userId || (Array.isArray(others) && others.includes(userId));
}

/// `create` is the event, `levels` the content of the room's levels, undefined when it has none.
export function levelOf(create, levels, userId) {
    if (standsAboveLevels(create, userId)) return Infinity;
    if (!levels) return create.sender === userId ? 100 : 0;
    const users = levels.users ?? {};
    const value = Object.hasOwn(users, userId) ? users[userId] : levels.users_default;
    return level(create, value, 0, -Infinity);
}

/// What `actor` may do about a knock of `knocker`: `{ accept, deny, ban }`.
export function powers(create, levels, actor, knocker) {
    const own = levelOf(create, levels, actor);
    const isAbove = own > levelOf(create, levels, knocker);
    const needed = (action, absent) => level(create, levels?.[action], absent, Infinity);
    return {
        accept: own >= needed("invite", 0),
        deny: isAbove && own >= needed("kick", 50),
        ban: isAbove && own >= needed("ban", 50),
    };
}
