//! What clients ask of us. One URL, one file.
//! May not: serve other servers, or read a room past its one visibility rule.

mod account;
mod account_data;
mod capabilities;
mod client_event;
mod commit;
mod create_room;
mod deactivate;
mod directory;
mod elsewhere;
mod event_filter;
mod filter;
mod history;
mod join;
mod json_body;
mod knock;
mod login;
mod logout;
mod member_content;
mod own_path;
mod password;
mod paths;
mod profile;
pub mod public_rooms;
mod pushrules;
mod reauthentication;
pub(crate) mod register;
mod room_address;
mod room_summary;
mod room_view;
mod rooms_members;
mod rooms_membership;
mod rooms_messages;
mod rooms_send;
mod rooms_state;
mod session;
mod sync;
#[cfg(test)]
mod testing;
mod timeline;
mod versions;
mod visibility;

pub use self::{
    password::Password,
    register::{
        new_account::{NewAccount, Registered},
        username::{UsernameRefusal, user_id_of},
    },
};

use actix_web::web::ServiceConfig;

/// All client endpoints.
pub fn routes(config: &mut ServiceConfig) {
    // Who is asking
    versions::routes(config);
    login::routes(config);
    logout::routes(config);
    register::routes(config);
    account::routes(config);
    deactivate::routes(config);
    capabilities::routes(config);
    // What belongs to a user
    profile::routes(config);
    filter::routes(config);
    account_data::routes(config);
    pushrules::routes(config);
    // Rooms from outside
    directory::routes(config);
    public_rooms::routes(config);
    room_summary::routes(config);
    create_room::routes(config);
    join::routes(config);
    knock::routes(config);
    // Rooms from inside
    rooms_state::routes(config);
    rooms_send::routes(config);
    rooms_membership::routes(config);
    rooms_members::routes(config);
    rooms_messages::routes(config);
    sync::routes(config);
}
