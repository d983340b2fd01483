"""The knock desk in a real browser: a moderator logs in, sees who knocks here and from another server,
and answers by mouse, by keyboard, one and many, while names and reasons are as bad as they can be.

    desk.py                    every scene
    desk.py accept hostile     only those named
    desk.py --shots DIR        and pictures of what was seen

May not: look at the page in another way than its user; what an answer did is read from the server.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from browser import DESKTOP, PHONE, Browser, Keys, WebElement
from pair.ground import SETTINGS, WIDE, Pair
from person import REASON, Person
from report import Report, run
from vestibule import quoted

PASSWORD = "correct horse battery"
NOBODY = "Nobody is waiting."
# Its policy, as far as a page could be harmed without it.
POLICY = ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'",
          "base-uri 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'")
MODERATED = {"invite": 50, "kick": 50, "ban": 50}
LONG = "I would like to come in. " * 410


class Desk:
    """The page, a moderator of two rooms who looks at it, and people who knock."""

    def __init__(self, pair: Pair, browser: Browser, shots: Path | None) -> None:
        self.pair = pair
        self.browser = browser
        self.shots = shots
        self.check = pair.check
        self.url = f"{pair.north.client_url}/desk"
        self.olga = pair.owner("Olga")
        self.mo = pair.owner("Mo")
        self.room = self._room("Otters")

    def _room(self, name: str) -> str:
        room_id = self.olga.client.create_room("11", "knock", name=name,
                                               power_level_content_override=MODERATED)
        self.olga.client.about(room_id, "invite", self.mo.user_id)
        self.mo.join(room_id)
        return room_id

    def call_moderator(self, room_id: str, person: Person, level: int = 50, **needed: int) -> None:
        """Gives a level to the person, and to actions in that room."""
        path = f"/v3/rooms/{quoted(room_id)}/state/m.room.power_levels/"
        levels = self.olga.client.must("GET", path)
        levels |= {"users": {**levels.get("users", {}), person.user_id: level}, **needed}
        self.olga.client.must("PUT", path, levels)

    # --- at the page --------------------------------------------------------------------------

    def enter(self, person: Person | None = None) -> None:
        """Log in, or be logged in already."""
        who = person or self.olga
        if self.browser.driver.current_url != self.url or self.browser.text("#own-id") != who.user_id:
            self.browser.open(self.url)
            self.browser.run("sessionStorage.clear()")
            self.browser.open(self.url)
            self.browser.one("#user").send_keys(who.user_id)
            self.browser.one("#password").send_keys(PASSWORD, Keys.ENTER)
            self.browser.reads("#own-id", who.user_id)
        self.browser.until(lambda: "Looking" not in self.browser.text("#empty"))

    def cards(self, user_id: str) -> list[WebElement]:
        def shown_id(card: WebElement) -> str:
            return "".join(self.browser.text_of(card, f".{part}") for part in ("localpart", "server"))

        return [card for card in self.browser.all("article.knock") if shown_id(card) == user_id]

    def card(self, person: Person) -> WebElement:
        found = self.browser.until(lambda: self.cards(person.user_id))
        if not found:
            raise RuntimeError(f"no knock of {person.user_id} is shown")
        return found[0]

    def is_gone(self, person: Person) -> bool:
        return self.browser.until(lambda: not self.cards(person.user_id))

    def click(self, person: Person, act: str) -> None:
        self.browser.one(f"[data-act={act}]", self.card(person)).click()

    def give_reason(self, words: str) -> None:
        self.browser.one("#ask-reason").send_keys(words)
        self.browser.one("#ask-go").click()

    def member(self, person: Person, room_id: str | None = None) -> dict[str, Any]:
        answer = self.olga.client.state_content(room_id or self.room, "m.room.member",
                                                person.user_id)
        return answer.json if answer.status == 200 else {}

    def becomes(self, person: Person, membership: str) -> dict[str, Any]:
        """The content that gives the person this membership in the room, when it comes."""
        self.browser.until(lambda: self.member(person).get("membership") == membership)
        return self.member(person)

    def knocker(self, name: str, reason: str | None = REASON) -> Person:
        person = self.pair.owner(name)
        answer = person.knock(self.room, reason)
        if answer.status != 200:
            raise RuntimeError(f"{name} knocks: {answer}")
        return person

    def knock_as(self, person: Person, name: str, reason: str) -> None:
        """A knock by a name that no profile takes."""
        path = f"/v3/rooms/{quoted(self.room)}/state/m.room.member/{quoted(person.user_id)}"
        person.client.must("PUT", path,
                           {"membership": "knock", "displayname": name, "reason": reason})


def logs_in(desk: Desk) -> None:
    page, check = desk.browser, desk.check
    with urlopen(desk.url) as answer:
        policy = answer.headers["Content-Security-Policy"]
    check(all(part in policy for part in POLICY), "the page comes with a strict policy", policy)
    page.open(desk.url)
    page.one("#user").send_keys(desk.olga.user_id)
    page.one("#password").send_keys("wrong", Keys.ENTER)
    words = page.reads("#login-trouble", "password")
    check("No account here has this name and password" in words, "a wrong password is told", words)
    page.keep(desk.shots, "login")
    page.one("#password").send_keys(PASSWORD, Keys.ENTER)
    words = page.reads("#empty", NOBODY)
    check(words.startswith(NOBODY), "the right one opens the desk, where nobody waits", words)
    page.driver.refresh()
    words = page.reads("#empty", NOBODY)
    check(words.startswith(NOBODY), "loaded again, the tab still is logged in", words)
    check(page.run("return localStorage.length") == 0 and not page.run("return document.cookie"),
          "and nothing is kept beyond the tab")


def knock_appears(desk: Desk) -> None:
    desk.enter()
    anna = desk.knocker("Anna")
    card, page = desk.card(anna), desk.browser
    desk.check(page.text_of(card, ".name") == "Anna" and page.text_of(card, ".reason") == REASON
               and page.text_of(card, ".since") == "just now" and page.text_of(card, ".avatar") == "A",
               "a knock comes by itself: name, id, reason, since when", card.text)
    words = page.reads("#said", "Anna")
    desk.check("Anna knocks on Otters." in words, "it is announced", words)
    title = page.driver.title
    desk.check(title.startswith("(1)"), "and counted in the title", title)
    sam = desk.pair.visitor("Sam")
    desk.check(sam.knock(desk.room).status == 200, "Sam knocks from the other server")
    card = desk.card(sam)
    desk.check(page.text_of(card, ".server") == desk.pair.south.server_name,
               "and is there too, with the name of that server", card.text)
    desk.click(sam, "accept")
    desk.check(sam.finds(desk.room, "invite"), "accepted, Sam hears of it over there")
    desk.click(anna, "accept")
    desk.check(desk.is_gone(anna), "Anna's is accepted as well, and nobody is left")


def accept(desk: Desk) -> None:
    desk.enter()
    bert = desk.knocker("Bert")
    desk.click(bert, "accept")
    desk.check(desk.is_gone(bert), "Bert is accepted by one click, and gone from the desk")
    now = desk.becomes(bert, "invite")
    desk.check(now.get("membership") == "invite" and bert.join(desk.room, via=()).status == 200,
               "he is invited, and joins", now)
    desk.browser.one("#answered summary").click()
    words = desk.browser.reads("#answered ol", "Bert")
    desk.check("Bert accepted by you, Otters" in words, "who was answered is listed", words)


def deny(desk: Desk) -> None:
    desk.enter()
    carl, page = desk.knocker("Carl"), desk.browser
    desk.click(carl, "deny")
    title = page.reads("#ask-title", "Carl")
    desk.check(title == "Deny Carl?", "denying asks whether it is meant", title)
    page.one("#ask-cancel").click()
    desk.check(desk.member(carl)["membership"] == "knock", "and does nothing when it is not")
    desk.click(carl, "deny")
    desk.give_reason("Say who you are, please.")
    now = desk.becomes(carl, "leave")
    desk.check(now.get("reason") == "Say who you are, please." and desk.is_gone(carl),
               "Carl is denied with a reason", now)
    carl.knock(desk.room, "I am Carl.")
    card = desk.card(carl)
    words = page.until(lambda: page.text_of(card, ".past summary"))
    desk.check(f"denied by {desk.olga.user_id}" in words, "he knocks again: how it ended is told",
               words)
    page.one(".past summary", card).click()
    words = page.text_of(card, ".past ol")
    desk.check("Say who you are, please." in words and REASON in words,
               "opened, also what was said then", words)
    page.keep(desk.shots, "past")
    desk.click(carl, "accept")
    desk.is_gone(carl)


def ban(desk: Desk) -> None:
    desk.enter()
    dora = desk.knocker("Dora", "buy otters cheap")
    desk.click(dora, "ban")
    desk.browser.until(lambda: desk.browser.text("#ask-title"))
    desk.browser.keep(desk.shots, "ban")
    desk.give_reason("Advertising")
    now = desk.becomes(dora, "ban")
    desk.check(now.get("reason") == "Advertising" and desk.is_gone(dora), "Dora is banned", now)


def many(desk: Desk) -> None:
    desk.enter()
    page = desk.browser
    crowd = [desk.knocker(f"Emil {number}", f"reason {number}") for number in range(6)]
    for person in crowd:
        desk.card(person)
    page.keep(desk.shots, "many")
    for person in crowd[:2]:
        page.one(".choose", desk.card(person)).click()
    words = page.reads("#chosen-count", "2")
    desk.check(words == "2 knocks chosen", "two are chosen", words)
    page.keep(desk.shots, "chosen")
    page.one("#chosen [data-act=deny]").click()
    desk.give_reason("Not today")
    denied = [desk.becomes(person, "leave") for person in crowd[:2]]
    desk.check(all(now.get("reason") == "Not today" for now in denied), "and denied together", denied)
    page.until(lambda: len(page.all("article.knock")) == 4)
    page.one(".choose-all").click()
    page.one("#chosen [data-act=accept]").click()
    page.one("#ask-go").click()
    words = page.reads("#said", "pause")
    desk.check("The server asks for a pause" in words,
               "four are accepted together, faster than the server takes it: it is told", words)
    invited = [desk.becomes(person, "invite") for person in crowd[2:]]
    desk.check(all(now.get("membership") == "invite" for now in invited),
               "and the rest follows by itself", invited)
    words = page.reads("#said", "4 of 4")
    desk.check("4 of 4 accepted." in words, "what came of it is told", words)


def others(desk: Desk) -> None:
    """Two moderators, and one who may do nothing."""
    desk.enter()
    page = desk.browser
    frida = desk.knocker("Frida")
    desk.card(frida)
    desk.call_moderator(desk.room, desk.mo)
    desk.mo.client.about(desk.room, "kick", frida.user_id, reason="no")
    words = page.reads("#said", "Frida: denied")
    desk.check(desk.is_gone(frida) and f"denied by {desk.mo.user_id}" in words,
               "a knock that somebody else answers goes, and it is told by whom", words)
    with page.without_network("*/sync*"):
        # What is asked for already still arrives.
        gerd = desk.knocker("Gerd")
        desk.card(gerd)
        words = page.reads("#connection", "No connection")
        desk.check("What you see may be old" in words, "a lost connection is told", words)
        desk.mo.client.about(desk.room, "invite", gerd.user_id)
        gerd.join(desk.room)
        desk.click(gerd, "deny")
        desk.give_reason("too late")
        desk.check(desk.is_gone(gerd) and desk.member(gerd)["membership"] == "join",
                   "a denial from an old page does not throw out who was let in meanwhile")
    page.until(lambda: not page.text("#connection"))
    desk.check(not page.text("#connection"), "the connection comes back by itself")

    hans = desk.knocker("Hans")
    desk.call_moderator(desk.room, desk.mo, 0)
    desk.enter(desk.mo)
    words = page.text("#empty")
    desk.check("no room whose knocks you may answer" in words
               and not page.all("article.knock") and "Hans" not in page.text("body"),
               "a member without power sees no knocks", words)
    desk.call_moderator(desk.room, desk.mo, 50)
    desk.check(bool(desk.card(hans)), "once they have it, they do, without loading anew")
    desk.call_moderator(desk.room, desk.mo, 50, kick=75, ban=75)
    offered = page.until(lambda: len(found := page.all("[data-act]", desk.card(hans))) == 1 and found)
    desk.check(offered and offered[0].text == "Accept", "who may only invite is offered that alone")
    desk.call_moderator(desk.room, desk.mo, 50, kick=50, ban=50)
    desk.call_moderator(desk.room, desk.mo, 0)
    desk.check(desk.is_gone(hans), "and not any more when it is taken away")
    desk.enter()
    desk.click(hans, "accept")
    desk.is_gone(hans)


def hostile(desk: Desk) -> None:
    desk.enter()
    page = desk.browser
    markup = "<img src=x onerror=\"window.hit=1\"><script>window.hit=1</script>"
    ida = desk.pair.owner("Ida")
    jon, kim = desk.pair.owner("Jon"), desk.pair.owner("Kim")
    desk.knock_as(ida, markup, f"{markup}<a href='javascript:window.hit=1'>x</a>")
    desk.knock_as(jon, "\u202egnihtyna\u202c \u2066" + "W" * 4_000 + "\u0300" * 400, LONG)
    desk.knock_as(kim, "Z" + "\u0301\u0352\u033e" * 60 + "\n\n\nsecond",
                  "line\n" * 300 + "\u202eabc")
    cards = [desk.card(person) for person in (ida, jon, kim)]
    desk.check(page.text_of(cards[0], ".name") == markup[:80] + ("…" if len(markup) > 80 else "")
               and markup in page.text_of(cards[0], ".reason"), "markup is text", cards[0].text)
    inside = page.run("return document.querySelectorAll('#rooms img, #rooms script, #rooms a').length")
    desk.check(inside == 0 and page.run("return window.hit") is None, "and nothing of it lives", inside)
    name = page.text_of(cards[1], ".name")
    desk.check("\u202e" not in name and "\u2066" not in name and len(name) < 100,
               "a name that turns text around or has no end is cut and marked", name)
    desk.check(all(card.size["height"] < 320 for card in cards), "each keeps its size",
               [card.size for card in cards])
    fits = page.run("return document.documentElement.scrollWidth <= innerWidth")
    desk.check(fits, "the page gets no wider")
    page.keep(desk.shots, "hostile")
    page.one(".unfold", cards[1]).click()
    desk.check(page.text_of(cards[1], ".reason") == LONG.strip(), "a long reason can be unfolded")
    for person in (ida, jon, kim):
        desk.click(person, "ban")
        desk.give_reason("hostile")
        desk.check(desk.is_gone(person), f"{person.name} is banned as anybody else")


def policy_holds(desk: Desk) -> None:
    desk.enter()
    page = desk.browser
    complaints = page.complaints()
    desk.check(not complaints, "all this while the console had nothing to complain about", complaints)
    planted = {
        "markup": "document.body.innerHTML = '<b>x</b>'",
        "a handler": "document.body.setAttribute('onclick', 'window.hit = 1')",
        "a script": "const made = document.createElement('script'); made.text = 'window.hit = 1';"
                    "document.body.append(made)",
    }
    for what, script in planted.items():
        refused = page.run(f"try {{ {script}; return '' }} catch (fault) {{ return fault.name }}")
        desk.check(refused == "TypeError", f"{what} cannot be put into the page", refused)
    page.run("const made = document.createElement('style');"
             "made.textContent = 'header { display: none }'; document.body.append(made);"
             "document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:1/x.png' }))")
    page.run("document.body.click()")
    desk.check(bool(page.all("header")) and page.run("return window.hit") is None,
               "nor does a style that is put there count")
    told = page.until(lambda: [line for line in page.complaints() if "img-src" in line])
    desk.check(bool(told), "and no picture is fetched from elsewhere", told)
    page.open(desk.url)


def by_keyboard(desk: Desk) -> None:
    desk.enter()
    page = desk.browser
    page.one("#logout").click()
    page.until(lambda: page.all("#login"))
    desk.check(page.focus.get_attribute("id") == "user", "logged out, the name has the focus")
    page.press(desk.olga.user_id, Keys.TAB, PASSWORD, Keys.ENTER)
    page.reads("#own-id", desk.olga.user_id)
    people = [desk.knocker(f"Lea {number}") for number in range(4)]
    for person in people:
        desk.card(person)
    page.press("j")
    focus = page.run("return [document.activeElement.ariaLabel,"
                     " getComputedStyle(document.activeElement).outlineStyle]")
    desk.check(focus == ["Lea 0 knocks", "solid"], "J goes to the first, and it shows", focus)
    page.keep(desk.shots, "focus")
    page.press("a")
    desk.check(desk.becomes(people[0], "invite").get("membership") == "invite", "A accepts")
    desk.is_gone(people[0])
    label = page.run("return document.activeElement.ariaLabel")
    desk.check(label == "Lea 1 knocks", "the focus goes on to the next", label)
    page.press("j", "k", "d")
    page.until(lambda: page.focus.get_attribute("id") == "ask-reason")
    page.press("sorry", Keys.TAB, Keys.TAB, Keys.ENTER)
    now = desk.becomes(people[1], "leave")
    desk.check(now.get("reason") == "sorry", "D denies, with a reason and Enter", now)
    desk.is_gone(people[1])
    page.press("x", "j", "x", "b")
    page.until(lambda: page.focus.get_attribute("id") == "ask-reason")
    page.press(Keys.ESCAPE)
    desk.check(not page.all("#ask") and page.text("#chosen-count") == "2 knocks chosen",
               "X chooses, B asks, Escape leaves it at that")
    page.press("d")
    page.until(lambda: page.focus.get_attribute("id") == "ask-reason")
    page.press(Keys.TAB, Keys.TAB, Keys.SPACE)
    left = [desk.becomes(person, "leave").get("membership") for person in people[2:]]
    desk.check(left == ["leave", "leave"], "both are denied together", left)
    page.press("?")
    desk.check(bool(page.all("#help")), "? shows the keys")
    page.keep(desk.shots, "help")
    page.press(Keys.ESCAPE)


def sizes(desk: Desk) -> None:
    """Pictures are for people; what can be measured is checked."""
    desk.enter()
    page = desk.browser
    beavers = desk._room("Beavers and other builders of dams")
    people = [desk.knocker("Mia Sommer", "We met at the river last week. Jo told me to ask here."),
              desk.knocker("Noah", None), desk.knocker("Ṣọlá Adébáyọ̀", LONG[:600])]
    people[1].knock(beavers, "I build, too.")
    desk.pair.visitor("Ola").knock(desk.room, "Hei! Kan jeg bli med?")
    page.until(lambda: len(page.all("article.knock")) == 5)
    for width, name in ((DESKTOP, "desktop"), (PHONE, "phone")):
        page.resize(*width)
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            page.keep(desk.shots, f"{name}-{scheme}")
            colors = page.run("const style = getComputedStyle(document.documentElement);"
                              "return style.backgroundColor")
            is_dark = sum(int(part) for part in colors[4:-1].split(",")) < 200
            desk.check(is_dark == (scheme == "dark"), f"{name}: the colors are {scheme}", colors)
        fits = page.run("return document.documentElement.scrollWidth <= innerWidth")
        desk.check(fits, f"{name}: everything fits")
    small = page.run("return [...document.querySelectorAll('.answers button')].filter((button) =>"
                     " button.offsetParent && button.getBoundingClientRect().height < 36).length")
    desk.check(small == 0, "phone: buttons are as large as fingers want them", small)
    desk.click(people[0], "accept")
    desk.check(desk.is_gone(people[0]), "phone: and they work")
    page.prefer("light")
    page.resize(*DESKTOP)
    page.all("nav button")[1].click()
    page.until(lambda: len(page.all("article.knock")) == 1)
    desk.check(page.text(".room-name") == "Beavers and other builders of dams",
               "a room of the list can be looked at alone", page.text("#rooms"))
    page.all("nav button")[0].click()
    page.one("#find").send_keys("ola")
    page.until(lambda: len(page.all("article.knock")) == 1)
    desk.check(len(page.all("article.knock")) == 1, "a word finds the one", page.text("#rooms"))


def session_ends(desk: Desk) -> None:
    desk.enter(desk.mo)
    page = desk.browser
    desk.mo.client.must("POST", "/v3/logout/all", {})
    words = page.reads("#login-trouble", "ended")
    desk.check("Your session has ended" in words, "a session that ends elsewhere is told", words)
    desk.check(page.run("return sessionStorage.length") == 0, "and its token is forgotten")


SCENES: dict[str, Callable[[Desk], None]] = {scene.__name__: scene for scene in (
    logs_in, knock_appears, accept, deny, ban, many, others, hostile, policy_holds, by_keyboard, sizes,
    session_ends)}


def main(report: Report) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shots", type=Path)
    parser.add_argument("names", nargs="*", choices=[*SCENES, []])
    wanted = parser.parse_args()
    settings = {
        **SETTINGS, "rate_limit.logins_by_address": WIDE, "rate_limit.knocks_in_room": WIDE,
        "knock.reason_bytes_max": "20000",
        # So that a crowd let in at once meets it.
        "rate_limit.invites_by_user": "{ per_second = 1.0, burst = 3 }",
    }
    with tempfile.TemporaryDirectory(prefix="desk-", ignore_cleanup_errors=True) as directory:
        pair = Pair(report, Path(directory), every_step=False, seed=0, settings=settings)
        browser = None
        try:
            pair.begin()
            browser = Browser(Path(directory))
            desk = Desk(pair, browser, wanted.shots)
            for name in wanted.names or SCENES:
                report.say(f"\n{name.replace('_', ' ').capitalize()}")
                report.attempt(name, lambda scene=SCENES[name]: scene(desk))
            pair.end()
        finally:
            if browser is not None:
                browser.close()
            pair.kill()


if __name__ == "__main__":
    run(main)
