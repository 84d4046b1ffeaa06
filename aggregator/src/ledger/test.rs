//! Promises of stable storage: kept, checked, grouped, owed, recovered.

use roost_aggregator_core::account::Account;
use roost_aggregator_core::intent::UserRecord;
use roost_aggregator_core::notify::{Key, Notifier, Standing, Syslog, Way};
use roost_aggregator_core::operation::State;
use roost_protocol::alarm::Severity;
use roost_protocol::operation::{Failure, FailureCode, Verb};
use roost_protocol::{GuestId, HostId, Millis, Stamp};

use super::*;

const NOW: Stamp = Stamp(1_800_000_000_000);

fn operation(number: u128, state: State, ended: Option<Stamp>) -> Operation {
    Operation {
        id: OperationId::from_u128(number),
        host: HostId::from_u128(1),
        guest: GuestId::from_u128(2),
        guest_name: "a \"guest\"\n🦉".to_owned(),
        verb: Verb::Start,
        created_by: "admin".to_owned(),
        created: NOW,
        started: ended,
        ended,
        expires: Stamp(NOW.0 + 1),
        state,
        percent: 7,
        step: "starting".to_owned(),
        key: Some(format!("admin/{number}")),
    }
}

fn user(name: &str, generation: u64) -> Changes {
    let record = UserRecord { password_hash: "x".to_owned(), created: NOW, full_name: name.to_owned() };
    let intent = vec![IntentChange::User { name: name.to_owned(), record: Some(record) }];
    Changes { intent, generation: Generation(generation), ..Changes::default() }
}

fn begun(number: u128) -> Changes {
    Changes { operations: vec![operation(number, State::Queued, None)], ..Changes::default() }
}

fn open(directory: &tempfile::TempDir) -> (Store, Kept) {
    Store::open(&directory.path().join("data/ledger.db"), true, NOW).unwrap()
}

#[test]
fn what_was_committed_is_read_back_equal() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, first) = open(&directory);
    assert!(first.recovering, "a new database beside an old key was lost");
    let failed = State::Failed(Failure { code: FailureCode::NoSpace, text: "disk full".to_owned() });
    let operations = vec![operation(1, failed, Some(NOW)), operation(2, State::Running, None)];
    store.commit([user("ann", 3), Changes { operations: operations.clone(), ..Changes::default() }].iter()).unwrap();
    let epoch = store.begin_epoch(NOW).unwrap();
    drop(store);
    let (mut store, kept) = open(&directory);
    assert_eq!(kept.operations, operations);
    assert_eq!((kept.intent.generation, kept.intent.users["ann"].full_name.as_str()), (Generation(3), "ann"));
    assert!(kept.recovering && kept.set_aside.is_none());
    assert_eq!(epoch, Epoch(NOW.0 / 1_000));
    assert_eq!(store.begin_epoch(Stamp(0)).unwrap(), epoch.next(), "the kept epoch wins over a clock gone back");
}

#[test]
fn the_last_uses_outlive_a_restart_and_end_with_whom_they_are_about() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory);
    let account = |name: &str| Account::User(name.to_owned());
    let uses = LastUses::from([(account("ann"), NOW), (account("bob"), NOW), (Account::ApiToken("x/y".into()), NOW)]);
    let gone = IntentChange::User { name: "bob".to_owned(), record: None };
    let all = [
        Changes { uses: uses.clone(), ..Changes::default() },
        Changes {
            intent: vec![gone],
            uses: LastUses::from([(account("ann"), Stamp(NOW.0 + 1))]),
            ..Changes::default()
        },
    ];
    store.commit(all.iter()).unwrap();
    drop(store);
    let (_, kept) = open(&directory);
    let expected = LastUses::from([(account("ann"), Stamp(NOW.0 + 1)), (Account::ApiToken("x/y".into()), NOW)]);
    assert_eq!(kept.uses, expected);
}

#[test]
fn a_database_of_the_first_version_is_read_with_its_operations() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory);
    let old = operation(1, State::Queued, None);
    store.commit(std::iter::once(&Changes { operations: vec![old.clone()], ..Changes::default() })).unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(directory.path().join("data/ledger.db")).unwrap();
    let back = "ALTER TABLE operation DROP COLUMN started; DROP TABLE last_use; DROP TABLE backup_policy;
                DROP TABLE notifier; DROP TABLE silence; DROP TABLE acknowledged; DROP TABLE told; DROP TABLE probe;
                PRAGMA user_version = 1; PRAGMA application_id = 0;";
    connection.execute_batch(back).unwrap();
    drop(connection);
    let (_, kept) = open(&directory);
    assert_eq!((kept.operations, kept.set_aside), (vec![old], None));
}

#[test]
fn doors_to_be_tried_outlive_a_restart_and_come_with_a_grid_document() {
    let directory = tempfile::tempdir().unwrap();
    let (guest, probes) = (GuestId::from_u128(5), vec!["rdp://192.0.2.7:3389".to_owned()]);
    let commit = |change| {
        let (mut store, _) = open(&directory);
        store.commit(std::iter::once(&Changes { intent: vec![change], ..Changes::default() })).unwrap();
        drop(store);
        open(&directory).1.intent.probes
    };
    let set = |probes: &[String]| IntentChange::Probes { guest, probes: probes.to_vec() };
    assert_eq!(commit(set(&probes)), BTreeMap::from([(guest, probes.clone())]));
    assert_eq!(commit(set(&[])), BTreeMap::new());
    let intent =
        roost_aggregator_core::Intent { probes: BTreeMap::from([(guest, probes.clone())]), ..Default::default() };
    assert_eq!(commit(IntentChange::Replace(Box::new(intent))), BTreeMap::from([(guest, probes)]));
}

#[test]
fn notifiers_and_what_they_were_told_outlive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory);
    let way = Way::Syslog(Syslog { server: "log:514".into(), tcp: false });
    let (name, least, gather) = ("log".to_owned(), Severity::Info, Millis(0));
    let notifier = Notifier { name: name.clone(), way, least, gather, ca: None, secret: None };
    let key = Key { code: "disk-low".into(), host: None, guest: None };
    let alarm = Standing { key, since: NOW, text: "t".into(), host_name: None, guest_name: None };
    let record = Some(Box::new(notifier.clone()));
    let told = |told| BTreeMap::from([("log".to_owned(), told)]);
    let changes = Changes {
        intent: vec![IntentChange::Notifier { name, record }],
        told: told(Some(vec![alarm.clone()])),
        ..Changes::default()
    };
    store.commit(std::iter::once(&changes)).unwrap();
    drop(store);
    let (mut store, kept) = open(&directory);
    assert_eq!(kept.intent.telling.notifiers["log"], notifier);
    assert_eq!(kept.told["log"], [alarm]);
    store.commit(std::iter::once(&Changes { told: told(None), ..Changes::default() })).unwrap();
    drop(store);
    assert!(open(&directory).1.told.is_empty());
}

#[test]
fn an_adopted_document_replaces_everything_and_ends_the_recovery() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory);
    store.commit(std::iter::once(&user("old", 1))).unwrap();
    let mut intent = roost_aggregator_core::Intent { generation: Generation(9), ..Default::default() };
    let record = UserRecord { password_hash: "x".to_owned(), created: NOW, full_name: "new".to_owned() };
    intent.users.insert("new".to_owned(), record);
    let all = Changes {
        intent: vec![IntentChange::Replace(Box::new(intent.clone()))],
        generation: Generation(9),
        ..Changes::default()
    };
    store.commit(std::iter::once(&all)).unwrap();
    drop(store);
    let (_, kept) = open(&directory);
    assert_eq!(kept.intent, intent);
    assert!(!kept.recovering);
}

#[test]
fn flipped_bytes_are_found_and_the_database_set_aside() {
    let flip_at = [0, 20, 100, 4_096 + 50, 2 * 4_096 + 4_000, 3 * 4_096 + 4_080];
    for at in flip_at {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/ledger.db");
        let (mut store, _) = Store::open(&path, false, NOW).unwrap();
        let many: Vec<Changes> = (0..200).map(begun).chain([user("ann", 1)]).collect();
        store.commit(many.iter()).unwrap();
        drop(store);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at..at + 16].iter_mut().for_each(|byte| *byte ^= 0x5a);
        std::fs::write(&path, &bytes).unwrap();
        let (mut store, kept) = Store::open(&path, true, NOW).unwrap();
        match kept.set_aside {
            Some(aside) => {
                assert!(aside.exists() && kept.recovering && kept.operations.is_empty(), "flip at {at}");
            }
            // The flip hit a place that holds nothing.
            None => assert!(kept.operations.len() == 200 && kept.intent.users.len() == 1, "flip at {at}"),
        }
        store.commit(std::iter::once(&begun(1_000))).unwrap();
    }
}

#[test]
fn any_byte_of_the_header_may_change_and_the_aggregator_still_starts() {
    for at in 0..100 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/ledger.db");
        let (mut store, _) = Store::open(&path, false, NOW).unwrap();
        store.commit(std::iter::once(&user("ann", 1))).unwrap();
        drop(store);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 0x5a;
        std::fs::write(&path, &bytes).unwrap();
        let (mut store, kept) = Store::open(&path, true, NOW).unwrap_or_else(|why| panic!("byte {at}: {why}"));
        assert!(kept.set_aside.is_some() || kept.intent.users.contains_key("ann"), "byte {at}");
        store.commit(std::iter::once(&begun(1))).unwrap_or_else(|why| panic!("byte {at}: {why}"));
    }
}

#[test]
fn a_database_of_a_newer_program_is_not_taken_for_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data/ledger.db");
    let newer = 9;
    let (store, _) = Store::open(&path, false, NOW).unwrap();
    store.pretend_version(newer);
    drop(store);
    let error = Store::open(&path, true, NOW).unwrap_err();
    assert!(!error.damage() && error.to_string().contains("newer"), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_set_aside_and_an_unreadable_place_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data/ledger.db");
    std::fs::create_dir(directory.path().join("data")).unwrap();
    std::fs::write(&path, "no database".repeat(1_000)).unwrap();
    let (_, kept) = Store::open(&path, true, NOW).unwrap();
    assert!(kept.set_aside.is_some());
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("ledger.db"), true, NOW).unwrap_err();
    assert!(!error.damage(), "{error}");
}

#[test]
fn a_second_process_is_kept_out() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, _) = open(&directory);
    let error = Store::open(&directory.path().join("data/ledger.db"), true, NOW).unwrap_err();
    assert!(matches!(error, LedgerError::InUse(_)), "{error}");
}

#[test]
fn a_thousand_waiting_changes_take_few_transactions_and_all_last() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&directory);
    // All wait before the thread runs, as they do while it waits for the disk.
    let (jobs, receiver) = sync_channel(WAITING);
    let counts = Arc::new(Counts::default());
    let worker = Worker { store, jobs: receiver, owed: Owed::default(), counts: Arc::clone(&counts) };
    let ledger = Ledger { jobs, counts: Arc::clone(&counts) };
    let waiters: Vec<Durable> = (0..1_000).map(|number| ledger.persist(begun(number))).collect();
    drop(ledger);
    worker.run();
    for waiter in waiters {
        waiter.blocking_recv().unwrap().unwrap();
    }
    assert_eq!(counts.commits.load(Ordering::Relaxed), 1);
    assert_eq!(counts.persisted.load(Ordering::Relaxed), 1_000);
    assert_eq!(open(&directory).1.operations.len(), 1_000);
}

#[test]
fn what_could_not_be_written_is_owed_and_written_when_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&directory);
    let other = rusqlite::Connection::open(directory.path().join("data/ledger.db")).unwrap();
    other
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON operation BEGIN SELECT RAISE(FAIL, 'full'); END")
        .unwrap();
    let (ledger, thread) = Ledger::start(store).unwrap();
    assert!(ledger.persist(begun(1)).blocking_recv().unwrap().is_err());
    assert!(ledger.failing());
    other.execute_batch("DROP TRIGGER full").unwrap();
    ledger.persist(begun(2)).blocking_recv().unwrap().unwrap();
    assert!(!ledger.failing());
    drop((ledger, other));
    thread.join().unwrap();
    assert_eq!(open(&directory).1.operations.len(), 2, "the failed one came along");
}

#[test]
fn a_database_damaged_while_in_use_is_rebuilt_from_memory() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&directory);
    let (ledger, thread) = Ledger::start(store).unwrap();
    ledger.persist(begun(1)).blocking_recv().unwrap().unwrap();
    let mut all = begun(1);
    all.epoch = Some(Epoch(77));
    all.intent = user("ann", 4).intent;
    all.generation = Generation(4);
    ledger.rebuild(all);
    ledger.persist(begun(2)).blocking_recv().unwrap().unwrap();
    drop(ledger);
    thread.join().unwrap();
    let (mut store, kept) = open(&directory);
    assert_eq!((kept.operations.len(), kept.intent.users.len()), (2, 1));
    assert_eq!(store.begin_epoch(Stamp(0)).unwrap(), Epoch(78));
}

#[test]
fn operations_that_ended_long_ago_are_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&directory);
    let week = 7 * 24 * 3_600_000;
    let operations = vec![
        operation(1, State::Succeeded, Some(Stamp(NOW.0 - week - 1))),
        operation(2, State::Succeeded, Some(Stamp(NOW.0 - week))),
        operation(3, State::Running, None),
    ];
    store.commit(std::iter::once(&Changes { operations, ..Changes::default() })).unwrap();
    assert!(!store.trim(NOW).unwrap());
    drop(store);
    assert_eq!(open(&directory).1.operations.len(), 2);
}
