//! `GET /_matrix/client/v3/pushrules/…` and `PUT …/enabled`: the push rules of a user.
//! May not: change more of them than whether they count; everybody has the predefined rules.
//!
//! One of them is not in the specification yet: `.org.matrix.msc4506.rule.knock` notifies of a knock who can accept it
//! (MSC4506 under its unstable prefix). Clients that do not know its condition pass it over.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#push-rules-api>

use std::collections::BTreeMap;

use actix_web::{
    HttpResponse,
    web::{self, Data},
};
use ruma::{UserId, push::Ruleset};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use vestibule_storage::{
    accounts::{AccountChange, AccountReader},
    error::StorageError,
};

use super::{commit::commit, json_body::JsonBody, paths::each};
use crate::{
    error::MatrixError,
    extract::{Caller, PathArguments},
    state::App,
};

/// The type of account data under which clients find the rules, and we keep what was switched.
pub const PUSH_RULES: &str = "m.push_rules";

/// The kinds of rules in the order in which they are looked at.
const KINDS: [&str; 5] = ["override", "content", "room", "sender", "underride"];

const OVERRIDE: &str = "override";
const MASTER_RULE: &str = ".m.rule.master";
const KNOCK_RULE: &str = ".org.matrix.msc4506.rule.knock";
/// The rule that the one for knocks follows, as MSC4506 has it: before the one that silences member events.
const BEFORE_KNOCK_RULE: &str = ".m.rule.invite_for_me";

/// Mounts the endpoints.
pub fn routes(config: &mut web::ServiceConfig) {
    for path in each("/pushrules") {
        config
            .service(web::resource([path.clone(), format!("{path}/")]).get(whole))
            .service(web::resource([format!("{path}/global"), format!("{path}/global/")]).get(global))
            .service(web::resource(format!("{path}/global/{{kind}}/{{rule_id}}")).get(rule))
            .service(web::resource(format!("{path}/global/{{kind}}/{{rule_id}}/enabled")).get(enabled).put(switch))
            .service(web::resource(format!("{path}/global/{{kind}}/{{rule_id}}/actions")).get(actions));
    }
}

/// What a user switched, as it is kept: only what differs from the predefined rules, which may change with the program.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Switched {
    /// Kind → id of the rule → whether it counts.
    enabled: BTreeMap<String, BTreeMap<String, bool>>,
}

impl Switched {
    fn parse(kept: Option<&str>) -> Self {
        kept.and_then(|kept| serde_json::from_str(kept).ok()).unwrap_or_default()
    }
}

/// The rules of a user: the predefined ones, and which of them count.
pub struct PushRules(Map<String, Value>);

impl PushRules {
    /// With what is kept of the user's switches, if there is anything.
    pub fn of(user_id: &UserId, kept: Option<&str>) -> Self {
        let mut rules = Self(predefined(user_id));
        for (kind, by_id) in Switched::parse(kept).enabled {
            for (rule_id, is_enabled) in by_id {
                // A rule that there is no more is not missed.
                if let Some(rule) = rules.find_mut(&kind, &rule_id) {
                    rule.insert("enabled".to_owned(), is_enabled.into());
                }
            }
        }
        rules
    }

    /// Reads the switches.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(accounts: &dyn AccountReader, user_id: &UserId) -> Result<Self, StorageError> {
        let row = accounts.account_data(user_id, None, PUSH_RULES).await?;
        Ok(Self::of(user_id, row.as_ref().map(|row| row.content.as_str())))
    }

    /// The content of `m.push_rules`: `{"global": …}`, as account data and `/sync` show it.
    pub fn content(&self) -> Value {
        json!({ "global": self.0 })
    }

    /// Whether the user wants to be told of knocks that they can accept. No other rule that counts comes first.
    pub fn tell_of_knocks(&self) -> bool {
        self.is_enabled(OVERRIDE, KNOCK_RULE) && !self.is_enabled(OVERRIDE, MASTER_RULE)
    }

    fn is_enabled(&self, kind: &str, rule_id: &str) -> bool {
        self.find(kind, rule_id).is_some_and(|rule| rule["enabled"] == true)
    }

    fn find(&self, kind: &str, rule_id: &str) -> Option<&Value> {
        self.0.get(kind)?.as_array()?.iter().find(|rule| rule["rule_id"] == rule_id)
    }

    fn find_mut(&mut self, kind: &str, rule_id: &str) -> Option<&mut Map<String, Value>> {
        let rules = self.0.get_mut(kind)?.as_array_mut()?;
        rules.iter_mut().find(|rule| rule["rule_id"] == rule_id)?.as_object_mut()
    }

    fn named(&self, path: &PathArguments) -> Result<&Value, MatrixError> {
        self.find(path.get(0), path.get(1)).ok_or_else(|| MatrixError::not_found("no such push rule"))
    }
}

/// Kinds without rules are sent as empty lists, which ruma leaves out: some clients take them for granted.
fn predefined(user_id: &UserId) -> Map<String, Value> {
    let rules = serde_json::to_value(Ruleset::server_default(user_id)).unwrap_or_default();
    let mut all: Map<String, Value> = KINDS
        .into_iter()
        .map(|kind| (kind.to_owned(), rules.get(kind).cloned().unwrap_or_else(|| json!([]))))
        .collect();
    if let Some(rules) = all.get_mut(OVERRIDE).and_then(Value::as_array_mut) {
        let place = rules.iter().position(|rule| rule["rule_id"] == BEFORE_KNOCK_RULE).map_or(0, |place| place + 1);
        rules.insert(place, knock_rule());
    }
    all
}

/// MSC4506 writes the type as a pattern; the condition compares whole values, so only the type itself can be meant.
fn knock_rule() -> Value {
    json!({
        "rule_id": KNOCK_RULE,
        "default": true,
        "enabled": true,
        "conditions": [
            { "kind": "event_property_is", "key": "type", "value": "m.room.member" },
            { "kind": "event_property_is", "key": "content.membership", "value": "knock" },
            { "kind": "org.matrix.msc4506.recipient_permission", "key": "invite" },
        ],
        "actions": ["notify", { "set_tweak": "sound", "value": "default" }],
    })
}

async fn whole(caller: Caller, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let rules = PushRules::load(&*app.stores.accounts, &caller.user_id).await?;
    Ok(HttpResponse::Ok().json(rules.content()))
}

async fn global(caller: Caller, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let rules = PushRules::load(&*app.stores.accounts, &caller.user_id).await?;
    Ok(HttpResponse::Ok().json(rules.0))
}

async fn rule(caller: Caller, path: PathArguments, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let rules = PushRules::load(&*app.stores.accounts, &caller.user_id).await?;
    Ok(HttpResponse::Ok().json(rules.named(&path)?))
}

async fn enabled(caller: Caller, path: PathArguments, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let rules = PushRules::load(&*app.stores.accounts, &caller.user_id).await?;
    Ok(HttpResponse::Ok().json(json!({ "enabled": rules.named(&path)?["enabled"] })))
}

async fn actions(caller: Caller, path: PathArguments, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let rules = PushRules::load(&*app.stores.accounts, &caller.user_id).await?;
    Ok(HttpResponse::Ok().json(json!({ "actions": rules.named(&path)?["actions"] })))
}

/// What a switch is set to.
#[derive(Deserialize)]
struct Wanted {
    enabled: bool,
}

/// One change at a time: each is made to what the one before has left. They are rare.
static SWITCHING: Mutex<()> = Mutex::const_new(());

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidenabled>
async fn switch(
    caller: Caller,
    path: PathArguments,
    app: Data<App>,
    JsonBody(wanted): JsonBody<Wanted>,
) -> Result<HttpResponse, MatrixError> {
    let _one = SWITCHING.lock().await;
    let (kind, rule_id) = (path.get(0), path.get(1));
    let user_id = caller.user_id;
    let row = app.stores.accounts.account_data(&user_id, None, PUSH_RULES).await?;
    let kept = row.as_ref().map(|row| row.content.as_str());
    // Only rules that there are: what is kept stays bounded.
    let is_enabled = PushRules::of(&user_id, kept).named(&path)?["enabled"] == true;
    if is_enabled != wanted.enabled {
        let mut switched = Switched::parse(kept);
        switched.enabled.entry(kind.to_owned()).or_default().insert(rule_id.to_owned(), wanted.enabled);
        let content = json!(switched).to_string();
        let change = AccountChange::PutAccountData { user_id, room_id: None, kind: PUSH_RULES.to_owned(), content };
        commit(&app.stores, vec![change]).await?;
    }
    Ok(HttpResponse::Ok().json(json!({})))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::client_server::testing::server::TestServer;

    #[test]
    fn every_kind_is_sent_and_the_predefined_rules_are_there() {
        let content = PushRules::of(user_id!("@alice:example.org"), None).content();
        let ids = |kind: &str| -> Vec<&str> {
            content["global"][kind].as_array().unwrap().iter().map(|rule| rule["rule_id"].as_str().unwrap()).collect()
        };
        for expected in [".m.rule.master", ".m.rule.member_event", ".m.rule.is_user_mention", ".m.rule.room.server_acl"]
        {
            assert!(ids("override").contains(&expected), "{expected}");
        }
        assert_eq!(ids("underride").len(), 5);
        for kind in ["content", "room", "sender"] {
            assert!(ids(kind).is_empty(), "{kind}");
        }
        let place = |rule: &str| ids("override").iter().position(|id| *id == rule).unwrap();
        assert_eq!(place(KNOCK_RULE), place(BEFORE_KNOCK_RULE) + 1);
        assert!(place(KNOCK_RULE) < place(".m.rule.member_event"));
    }

    #[actix_web::test]
    async fn single_rules_are_found_by_kind_and_id_and_can_be_switched() {
        let server = TestServer::start().await;
        let ann = server.user("ann").await;
        let knock = format!("/pushrules/global/override/{KNOCK_RULE}");
        let rule = ann.get(&knock).await;
        assert_eq!((&rule["enabled"], &rule["rule_id"]), (&json!(true), &json!(KNOCK_RULE)));
        let since = ann.get("/sync").await["next_batch"].as_str().unwrap().to_owned();

        ann.put(&format!("{knock}/enabled"), json!({ "enabled": false })).await;
        assert_eq!(ann.get(&format!("{knock}/enabled")).await, json!({ "enabled": false }));
        assert_eq!(ann.get("/pushrules/global/override/.m.rule.master/enabled").await, json!({ "enabled": false }));
        let news = ann.get(&format!("/sync?since={since}")).await;
        let told = &news["account_data"]["events"][0];
        assert_eq!(told["type"], PUSH_RULES);
        assert_eq!(told["content"], ann.get("/pushrules/").await);
        let id = ann.get("/account/whoami").await["user_id"].as_str().unwrap().to_owned();
        assert_eq!(ann.get(&format!("/user/{id}/account_data/m.push_rules")).await, told["content"]);
        let rules = PushRules(told["content"]["global"].as_object().unwrap().clone());
        assert!(!rules.tell_of_knocks());

        let bob = server.user("bob").await;
        assert_eq!(bob.get(&format!("{knock}/enabled")).await, json!({ "enabled": true }));
        ann.put(&format!("{knock}/enabled"), json!({ "enabled": true })).await;
        assert_eq!(ann.get(&knock).await, rule);
        for path in ["underride/.m.rule.master", "override/x", "nonsense/.m.rule.master"] {
            let path = format!("/pushrules/global/{path}");
            assert_eq!(ann.get_refused(&path).await.0, 404, "{path}");
            let path = format!("{path}/enabled");
            assert_eq!(ann.put_refused(&path, json!({ "enabled": true })).await.0, 404, "{path}");
        }
        for body in [json!({}), json!({ "enabled": "false" }), json!([])] {
            assert_eq!(ann.put_refused(&format!("{knock}/enabled"), body.clone()).await.0, 400, "{body}");
        }
    }

    #[test]
    fn who_wants_to_hear_nothing_hears_of_no_knock() {
        let alice = user_id!("@alice:example.org");
        for (kept, tells) in [
            (None, true),
            (Some("{\"enabled\":{\"override\":{\".m.rule.master\":true}}}"), false),
            (Some("{\"enabled\":{\"override\":{\".org.matrix.msc4506.rule.knock\":false}}}"), false),
            (Some("{\"enabled\":{\"underride\":{\".org.matrix.msc4506.rule.knock\":false}}}"), true),
            (Some("{\"enabled\":{\"override\":{\".m.rule.member_event\":false}}}"), true),
        ] {
            assert_eq!(PushRules::of(alice, kept).tell_of_knocks(), tells, "{kept:?}");
        }
    }
}
