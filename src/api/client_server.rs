//! What clients ask of us. One URL, one file.
//! May not: serve other servers, or read a room past its one visibility rule.

mod account;
mod account_data;
mod capabilities;
mod client_event;
pub(crate) mod commit;
mod create_room;
mod deactivate;
mod delete_devices;
mod devices;
mod directory;
mod elsewhere;
mod event_filter;
mod filter;
mod history;
mod join;
mod json_body;
mod keys_changes;
mod keys_claim;
mod keys_device_signing_upload;
mod keys_query;
mod keys_signatures_upload;
mod keys_upload;
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
pub(crate) mod register;
mod room_address;
mod room_keys;
mod room_summary;
mod room_view;
mod rooms_members;
mod rooms_membership;
mod rooms_messages;
mod rooms_read_markers;
mod rooms_receipt;
mod rooms_send;
mod rooms_state;
mod rooms_typing;
pub(crate) mod rooms_upgrade;
mod send_to_device;
mod session;
mod state_content;
mod sync;
#[cfg(test)]
pub(crate) mod testing;
mod timeline;
mod user_interactive;
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
    // What devices need to encrypt
    devices::routes(config);
    delete_devices::routes(config);
    keys_upload::routes(config);
    keys_query::routes(config);
    keys_claim::routes(config);
    keys_changes::routes(config);
    keys_device_signing_upload::routes(config);
    keys_signatures_upload::routes(config);
    send_to_device::routes(config);
    room_keys::routes(config);
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
    rooms_typing::routes(config);
    rooms_receipt::routes(config);
    rooms_read_markers::routes(config);
    rooms_upgrade::routes(config);
    sync::routes(config);
}
