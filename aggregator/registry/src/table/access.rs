//! Who may come in: join tokens for hosts; users, sessions and API tokens for people and programs.

use super::{cli, read, write};
use crate::schema::TOKEN_STATES;
use crate::{Faces, Field, FieldKind, Http, Operation, Output};

const ID: Field = Field::path("id", "Its id");
const USER: Field = Field::path("name", "The user's name");
const PASSWORD: Field = Field::body("password", FieldKind::Secret, "The password").required();
const TTL: Field = Field::body("ttl_s", FieldKind::Seconds, "How long it is good for");

const JOIN_TOKENS: &[Operation] = &[
    Operation {
        detail: "Newest first; the last 100 used or expired ones are kept to be seen.",
        inputs: &[Field::query("state", FieldKind::Choice(TOKEN_STATES), "Only tokens in this state")],
        cli: cli("join-token", "list"),
        ..read("join_token.list", "List join tokens", "/join-tokens", Output::List("join_token"))
    },
    Operation {
        inputs: &[ID],
        errors: &["not_found"],
        cli: cli("join-token", "get"),
        ..read("join_token.get", "Show one join token", "/join-tokens/{id}", Output::Object("join_token"))
    },
    Operation {
        detail: "Good for one host. The token is shown this once.",
        inputs: &[
            Field::body("name", FieldKind::Text, "The name the host gets (default: the one it brings)"),
            Field::body("note", FieldKind::Text, "What it is for, for people"),
            TTL,
        ],
        errors: &["invalid"],
        cli: cli("join-token", "create"),
        ..write(
            "join_token.create",
            "Make a token that lets one host join",
            Http::Post,
            "/join-tokens",
            Output::Object("join_token"),
        )
    },
    Operation {
        inputs: &[ID],
        errors: &["not_found"],
        cli: cli("join-token", "delete"),
        ..write("join_token.delete", "Take a join token back", Http::Delete, "/join-tokens/{id}", Output::Nothing)
    },
];

const USERS: &[Operation] = &[
    Operation { cli: cli("user", "list"), ..read("user.list", "List users", "/users", Output::List("user")) },
    Operation {
        inputs: &[USER],
        errors: &["not_found"],
        cli: cli("user", "get"),
        ..read("user.get", "Show one user", "/users/{name}", Output::Object("user"))
    },
    Operation {
        inputs: &[Field::body("name", FieldKind::Text, "The name to log in with").required(), PASSWORD],
        errors: &["invalid", "already_exists"],
        cli: cli("user", "create"),
        ..write("user.create", "Add a user", Http::Post, "/users", Output::Object("user"))
    },
    Operation {
        detail: "Ends the user's sessions.",
        inputs: &[USER, PASSWORD],
        errors: &["not_found", "invalid"],
        cli: cli("user", "set-password"),
        ..write("user.set_password", "Change a user's password", Http::Put, "/users/{name}/password", Output::Nothing)
    },
    Operation {
        detail: "Ends the user's sessions and API tokens. The last user can't be deleted.",
        inputs: &[USER],
        errors: &["not_found", "wrong_state"],
        cli: cli("user", "delete"),
        ..write("user.delete", "Delete a user", Http::Delete, "/users/{name}", Output::Nothing)
    },
];

const SESSIONS: &[Operation] = &[
    Operation {
        detail: "The answer's `token` is sent as `Authorization: Bearer`; browsers also get a cookie. XML-RPC answers with the token alone.",
        inputs: &[Field::body("user", FieldKind::Text, "The user's name").required(), PASSWORD],
        errors: &["login_failed"],
        public: true,
        faces: Faces { no_xmlrpc: None, no_cli: Some("`roost login` keeps what comes back") },
        ..write("session.login", "Log in", Http::Post, "/sessions", Output::Object("session"))
    },
    Operation {
        cli: cli("session", "list"),
        ..read("session.list", "List log-ins", "/sessions", Output::List("session"))
    },
    Operation {
        detail: "The id `current` is the session of the caller.",
        inputs: &[ID],
        errors: &["not_found"],
        cli: cli("session", "get"),
        ..read("session.get", "Show one log-in", "/sessions/{id}", Output::Object("session"))
    },
    Operation {
        detail: "The id `current` is the session of the caller.",
        inputs: &[ID],
        errors: &["not_found"],
        cli: cli("session", "delete"),
        ..write("session.logout", "Log out", Http::Delete, "/sessions/{id}", Output::Nothing)
    },
];

const API_TOKENS: &[Operation] = &[
    Operation {
        cli: cli("api-token", "list"),
        ..read("api_token.list", "List API tokens", "/api-tokens", Output::List("api_token"))
    },
    Operation {
        inputs: &[ID],
        errors: &["not_found"],
        cli: cli("api-token", "get"),
        ..read("api_token.get", "Show one API token", "/api-tokens/{id}", Output::Object("api_token"))
    },
    Operation {
        detail: "The token is shown this once; only its hash is kept.",
        inputs: &[Field::body("name", FieldKind::Text, "What it is for").required(), TTL],
        errors: &["invalid", "already_exists"],
        cli: cli("api-token", "create"),
        ..write(
            "api_token.create",
            "Make a token for a program",
            Http::Post,
            "/api-tokens",
            Output::Object("api_token"),
        )
    },
    Operation {
        inputs: &[ID],
        errors: &["not_found"],
        cli: cli("api-token", "delete"),
        ..write("api_token.delete", "Take an API token back", Http::Delete, "/api-tokens/{id}", Output::Nothing)
    },
];

/// Join tokens, users, sessions, API tokens.
pub(super) const TABLE: &[&[Operation]] = &[JOIN_TOKENS, USERS, SESSIONS, API_TOKENS];
