//! What happened at the room's door: plain knocks, their answers, and the joins that follow, by user.
//! May not: hold anything whose place in a resolved state depends on more than these rules.
//!
//! For one user the entries form a chain: a *plain knock* (of somebody without a member event), its *answer* (an invite, a
//! denial or a ban by a member of the core), and the *join* of whoever was invited. Each cites the one before it, and besides
//! only events of the core: create, power levels, join rules, the member event of who answers. When states share a core, the
//! last link that any of them has is what they resolve to, in either version of the algorithm:
//! - A denial or ban is a power event, so its knock is judged before it and it after its knock.
//! - An invite and its knock are judged by their clocks. Invite first: it cites the knock, so it passes, and then the knock
//!   fails against it. Knock first: both pass. The invite stands.
//! - A join fails only if it is judged between knock and invite. So it is a link only if its clock is later than the invite's.
//!
//! All this holds as long as the answer is judged by the member event that it cites ([`Side::joined`] looks that up), and as
//! long as no state has a link of that user outside the chain. Two plain knocks of one user are no chain: the later one
//! stands. But once one of them is answered, which stands depends on all states together: such a user is [tangled].
//!
//! [tangled]: is_tangled

use imbl::{OrdMap, ordmap::DiffItem};
use ruma::{
    OwnedEventId,
    events::{StateEventType, room::member::MembershipState},
};

use crate::{
    pdu::Pdu,
    room_version::RoomVersion,
    state::{StateKey, StateMap},
};

/// The last link of one user's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::room_graph) struct Link {
    event_id: OwnedEventId,
    /// The earlier links; two at most.
    earlier: Vec<OwnedEventId>,
    /// Who answered, and the member event by which he could.
    answerer: Option<(String, OwnedEventId)>,
}

impl Link {
    pub(super) fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    /// Whether this is an answer, or the join that followed one.
    pub(in crate::room_graph) fn is_answer(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// Whether both are links of one chain.
    pub(in crate::room_graph) fn is_in_chain_with(&self, other: &Self) -> bool {
        self.event_id == other.event_id || self.follows(other) || other.follows(self)
    }

    /// Whether this link comes after the other in one chain.
    fn follows(&self, other: &Self) -> bool {
        self.earlier.contains(&other.event_id)
    }
}

/// The last links of all users at the door.
#[derive(Clone, Debug, Default)]
pub(super) struct Door {
    links: OrdMap<String, Link>,
}

/// Which of two links of one user stands in a union.
enum Standing {
    Ours,
    Theirs,
}

impl Door {
    pub(super) fn contains(&self, user: &str) -> bool {
        self.links.contains_key(user)
    }

    pub(super) fn get(&self, user: &str) -> Option<&Link> {
        self.links.get(user)
    }

    pub(super) fn insert(&mut self, user: String, link: Link) {
        self.links.insert(user, link);
    }

    pub(super) fn remove(&mut self, user: &str) -> Option<Link> {
        self.links.remove(user)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Link)> {
        self.links.iter()
    }

    /// The links of users for whom the other door has another link, or none, or this one has none: ours and theirs.
    pub(super) fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a str, [Option<&'a Link>; 2])> {
        self.links.diff(&other.links).map(|item| match item {
            DiffItem::Add(user, link) => (user.as_str(), [None, Some(link)]),
            DiffItem::Remove(user, link) => (user.as_str(), [Some(link), None]),
            DiffItem::Update { old: (user, ours), new: (_, theirs) } => (user.as_str(), [Some(ours), Some(theirs)]),
        })
    }

    /// How many of the last links are plain knocks. Looks at each.
    pub(super) fn plain_knocks(&self) -> usize {
        self.links.values().filter(|link| link.earlier.is_empty()).count()
    }
}

/// A state's entries and its door: what unions are judged by.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) state: &'a StateMap,
    pub(super) door: &'a Door,
}

impl Side<'_> {
    /// The users whose links must be taken over from `theirs`; `None` when a union would not be what they resolve to. Both
    /// must share a core. Costs what differs.
    pub(super) fn joined<'b>(&self, theirs: Side<'b>) -> Option<Vec<(&'b str, &'b Link)>> {
        let mut taken = Vec::new();
        for (user, [ours, other]) in self.door.differing(theirs.door) {
            if let Standing::Theirs = self.standing(theirs, ours, other)? {
                let (user, link) = theirs.door.links.get_key_value(user)?;
                taken.push((user.as_str(), link));
            }
        }
        Some(taken)
    }

    /// Whether the union with `theirs` takes over this one link of theirs and is allowed to.
    pub(super) fn takes(&self, theirs: Side<'_>, user: &str) -> Option<bool> {
        let (ours, other) = (self.door.get(user), theirs.door.get(user));
        Some(ours != other && matches!(self.standing(theirs, ours, other)?, Standing::Theirs))
    }

    fn standing(&self, theirs: Side<'_>, ours: Option<&Link>, other: Option<&Link>) -> Option<Standing> {
        let (link, standing) = match (ours, other) {
            (Some(ours), None) => (ours, Standing::Ours),
            (None, Some(other)) => (other, Standing::Theirs),
            (Some(ours), Some(other)) if ours == other || ours.follows(other) => (ours, Standing::Ours),
            (Some(ours), Some(other)) if other.follows(ours) => (other, Standing::Theirs),
            _ => return None,
        };
        let is_judged_alike = link.answerer.as_ref().is_none_or(|(answerer, member)| {
            [self.state, theirs.state].iter().all(|state| {
                state.get(&StateEventType::RoomMember, answerer).is_some_and(|event| *event.event_id() == **member)
            }) && !self.door.contains(answerer)
                && !theirs.door.contains(answerer)
        });
        is_judged_alike.then_some(standing)
    }
}

/// The events of the core that authorize a knock, as far as they exist.
pub(super) struct Authorizing {
    /// The create event (before version 12) and the power levels.
    always: Vec<OwnedEventId>,
    join_rules: Option<OwnedEventId>,
}

impl Authorizing {
    pub(super) fn of(state: &StateMap, version: &RoomVersion) -> Self {
        let id_of = |kind: StateEventType| state.get(&kind, "").map(|event| event.event_id().to_owned());
        let create = (!version.room_id_is_create_hash()).then_some(StateEventType::RoomCreate);
        let kinds = create.into_iter().chain([StateEventType::RoomPowerLevels]);
        Self { always: kinds.filter_map(id_of).collect(), join_rules: id_of(StateEventType::RoomJoinRules) }
    }

    /// The link that an event makes when it takes the place of `old` in the side's state; `None`: it belongs to the core.
    pub(super) fn link(&self, event: &Pdu, old: Option<&Link>, side: Side<'_>) -> Option<Link> {
        let membership = event.membership()?;
        let join_rules = self.join_rules.clone()?;
        let is_own = event.state_key() == Some(event.sender().as_str());
        let link =
            |earlier: Vec<OwnedEventId>, answerer| Link { event_id: event.event_id().to_owned(), earlier, answerer };
        match (membership, old) {
            (MembershipState::Knock, _) if is_own => {
                self.are_cited_by(event, [Some(join_rules)]).then(|| link(Vec::new(), None))
            }
            (MembershipState::Invite | MembershipState::Leave | MembershipState::Ban, Some(knock))
                if !is_own && knock.earlier.is_empty() =>
            {
                let answerer = side.state.member(event.sender()).filter(|member| {
                    member.membership() == Some(MembershipState::Join) && !side.door.contains(event.sender().as_str())
                })?;
                let is_invite = event.membership() == Some(MembershipState::Invite);
                let member_id = answerer.event_id().to_owned();
                let cited = [is_invite.then_some(join_rules), Some(member_id.clone()), Some(knock.event_id.clone())];
                (self.are_cited_by(event, cited) && !has_third_party_invite(event))
                    .then(|| link(vec![knock.event_id.clone()], Some((event.sender().to_string(), member_id))))
            }
            (MembershipState::Join, Some(answer)) if is_own => {
                let invite = side.state.member(event.sender()).filter(|member| {
                    member.membership() == Some(MembershipState::Invite) && *member.event_id() == *answer.event_id
                })?;
                let clock = |event: &Pdu| (event.origin_server_ts(), event.event_id().to_owned());
                let is_judged_later = clock(event) > clock(invite);
                let earlier = answer.earlier.iter().chain([&answer.event_id]).cloned().collect();
                (is_judged_later && self.are_cited_by(event, [Some(join_rules), Some(answer.event_id.clone())]))
                    .then(|| link(earlier, answer.answerer.clone()))
            }
            _ => None,
        }
    }

    /// Whether the auth events are create, power levels and these, and no others.
    fn are_cited_by<const N: usize>(&self, event: &Pdu, further: [Option<OwnedEventId>; N]) -> bool {
        let mut wanted: Vec<OwnedEventId> = self.always.iter().cloned().chain(further.into_iter().flatten()).collect();
        let mut cited = event.auth_events().to_vec();
        wanted.sort();
        cited.sort();
        wanted == cited
    }
}

/// Whether some of these links of one user are no chain although one of them is an answer.
pub(super) fn is_tangled(links: &[&Link]) -> bool {
    links.iter().any(|link| link.is_answer())
        && links
            .iter()
            .enumerate()
            .any(|(index, link)| links.iter().take(index).any(|other| !link.is_in_chain_with(other)))
}

/// Types that authorize what happens at the door: when one changes, all links stand on other ground.
pub(super) fn authorizes_all(key: &StateKey) -> bool {
    matches!(key.0, StateEventType::RoomCreate | StateEventType::RoomPowerLevels | StateEventType::RoomJoinRules)
}

/// Such an invite is judged by the invite of a third party, too.
fn has_third_party_invite(event: &Pdu) -> bool {
    event
        .content_as::<std::collections::BTreeMap<String, serde::de::IgnoredAny>>()
        .is_none_or(|content| content.contains_key("third_party_invite"))
}
