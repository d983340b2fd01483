//! The rules for member events of versions 3 to 12, as a table that is read from the top: the first row whose facts all hold
//! decides. Numbers in comments are those of version 12.
//! May not: be written by looking at what production does.
//!
//! Spec: <https://spec.matrix.org/v1.19/rooms/v12/#authorization-rules>

use super::case::{
    ALICE, Case, Key,
    Membership::{self, Ban, Invite, Join, Knock},
    Next, Threshold, domain,
};

/// Something that holds of a case, or does not.
enum Fact {
    /// The create event is all there is, and the target is the creator.
    FirstJoinOfCreator,
    SentByTarget,
    SentByAnother,
    SenderIsNotIn,
    TargetIs(&'static [Membership]),
    TargetIsNot(&'static [Membership]),
    RuleIs(&'static [&'static str]),
    RuleIsNot(&'static [&'static str]),
    /// `join_authorised_via_users_server` is nobody who may invite.
    NobodyVouches,
    SenderBelow(Threshold),
    SenderReaches(Threshold),
    TargetBelowSender,
    ByThirdParty,
    NothingSigned,
    MxidOrTokenLacks,
    MxidIsAnother,
    TokenIsUnknown,
    InviterIsAnother,
    KeyFits,
}

use Fact::{
    ByThirdParty, FirstJoinOfCreator, InviterIsAnother, KeyFits, MxidIsAnother, MxidOrTokenLacks, NobodyVouches,
    NothingSigned, RuleIs, RuleIsNot, SenderBelow, SenderIsNotIn, SenderReaches, SentByAnother, SentByTarget,
    TargetBelowSender, TargetIs, TargetIsNot, TokenIsUnknown,
};

#[derive(Clone, Copy)]
enum Verdict {
    Allow,
    Reject,
}

use Verdict::{Allow, Reject};

/// What the event says, from and to which version, what holds, what then.
type Row = (Next, u8, u8, &'static [Fact], Verdict);

const TABLE: &[Row] = &[
    // 5.3
    (Next::Join, 3, 12, &[FirstJoinOfCreator], Allow),
    (Next::Join, 3, 12, &[SentByAnother], Reject),
    (Next::Join, 3, 12, &[TargetIs(&[Ban])], Reject),
    (Next::Join, 3, 6, &[RuleIs(&["invite"]), TargetIs(&[Invite, Join])], Allow),
    (Next::Join, 7, 12, &[RuleIs(&["invite", "knock"]), TargetIs(&[Invite, Join])], Allow),
    (Next::Join, 8, 9, &[RuleIs(&["restricted"]), TargetIs(&[Invite, Join])], Allow),
    (Next::Join, 8, 9, &[RuleIs(&["restricted"]), NobodyVouches], Reject),
    (Next::Join, 8, 9, &[RuleIs(&["restricted"])], Allow),
    (Next::Join, 10, 12, &[RuleIs(&["restricted", "knock_restricted"]), TargetIs(&[Invite, Join])], Allow),
    (Next::Join, 10, 12, &[RuleIs(&["restricted", "knock_restricted"]), NobodyVouches], Reject),
    (Next::Join, 10, 12, &[RuleIs(&["restricted", "knock_restricted"])], Allow),
    (Next::Join, 3, 12, &[RuleIs(&["public"])], Allow),
    (Next::Join, 3, 12, &[], Reject),
    // 5.4
    (Next::Invite, 3, 12, &[ByThirdParty, TargetIs(&[Ban])], Reject),
    (Next::Invite, 3, 12, &[ByThirdParty, NothingSigned], Reject),
    (Next::Invite, 3, 12, &[ByThirdParty, MxidOrTokenLacks], Reject),
    (Next::Invite, 3, 12, &[ByThirdParty, MxidIsAnother], Reject),
    (Next::Invite, 3, 12, &[ByThirdParty, TokenIsUnknown], Reject),
    (Next::Invite, 3, 12, &[ByThirdParty, InviterIsAnother], Reject),
    (Next::Invite, 3, 12, &[ByThirdParty, KeyFits], Allow),
    (Next::Invite, 3, 12, &[ByThirdParty], Reject),
    (Next::Invite, 3, 12, &[SenderIsNotIn], Reject),
    (Next::Invite, 3, 12, &[TargetIs(&[Join, Ban])], Reject),
    (Next::Invite, 3, 12, &[SenderReaches(Threshold::Invite)], Allow),
    (Next::Invite, 3, 12, &[], Reject),
    // 5.5
    (Next::Leave, 3, 6, &[SentByTarget, TargetIs(&[Invite, Join])], Allow),
    (Next::Leave, 7, 12, &[SentByTarget, TargetIs(&[Invite, Join, Knock])], Allow),
    (Next::Leave, 3, 12, &[SentByTarget], Reject),
    (Next::Leave, 3, 12, &[SenderIsNotIn], Reject),
    (Next::Leave, 3, 12, &[TargetIs(&[Ban]), SenderBelow(Threshold::Ban)], Reject),
    (Next::Leave, 3, 12, &[SenderReaches(Threshold::Kick), TargetBelowSender], Allow),
    (Next::Leave, 3, 12, &[], Reject),
    // 5.6
    (Next::Ban, 3, 12, &[SenderIsNotIn], Reject),
    (Next::Ban, 3, 12, &[SenderReaches(Threshold::Ban), TargetBelowSender], Allow),
    (Next::Ban, 3, 12, &[], Reject),
    // 5.7, since version 7
    (Next::Knock, 7, 9, &[RuleIsNot(&["knock"])], Reject),
    (Next::Knock, 10, 12, &[RuleIsNot(&["knock", "knock_restricted"])], Reject),
    (Next::Knock, 7, 12, &[SentByAnother], Reject),
    (Next::Knock, 7, 12, &[TargetIsNot(&[Ban, Invite, Join])], Allow),
    (Next::Knock, 3, 12, &[], Reject),
    // 5.8 and 5.1
    (Next::Unknown, 3, 12, &[], Reject),
    (Next::Missing, 3, 12, &[], Reject),
];

/// Whether the rules allow the event.
pub fn allow(case: &Case) -> bool {
    // 4
    if case.federate == Some(false) && domain(case.sender) != domain(ALICE) {
        return false;
    }
    let decides = |(next, from, to, facts, _): &&Row| {
        *next == case.next && (*from..=*to).contains(&case.version) && facts.iter().all(|fact| holds(fact, case))
    };
    matches!(TABLE.iter().find(decides), Some((.., Allow)))
}

fn holds(fact: &Fact, case: &Case) -> bool {
    let third_party = case.third_party;
    match fact {
        FirstJoinOfCreator => case.is_first && case.target == case.first_joiner(),
        SentByTarget => case.sender == case.target,
        SentByAnother => case.sender != case.target,
        SenderIsNotIn => case.members[case.sender] != Join,
        TargetIs(memberships) => memberships.contains(&case.prior()),
        TargetIsNot(memberships) => !memberships.contains(&case.prior()),
        RuleIs(rules) => case.join_rule.is_some_and(|rule| rules.contains(&rule)),
        RuleIsNot(rules) => !case.join_rule.is_some_and(|rule| rules.contains(&rule)),
        // Who is not in the room may not invite, whatever the power.
        NobodyVouches => !case
            .via
            .is_some_and(|user| case.members[user] == Join && case.power(user) >= case.threshold(Threshold::Invite)),
        SenderBelow(threshold) => case.power(case.sender) < case.threshold(*threshold),
        SenderReaches(threshold) => case.power(case.sender) >= case.threshold(*threshold),
        TargetBelowSender => case.power(case.target) < case.power(case.sender),
        ByThirdParty => third_party.is_some(),
        NothingSigned => third_party.is_some_and(|invite| !invite.has_signed),
        MxidOrTokenLacks => third_party.is_some_and(|invite| invite.mxid.is_none() || !invite.has_token),
        MxidIsAnother => third_party.is_some_and(|invite| invite.mxid != Some(case.target)),
        TokenIsUnknown => third_party.is_some_and(|invite| invite.issued_by.is_none()),
        InviterIsAnother => third_party.is_some_and(|invite| invite.issued_by != Some(case.sender)),
        KeyFits => third_party.is_some_and(|invite| invite.key != Key::Elsewhere),
    }
}
