# The two commands are `make run` and `make stop`; `make help` lists the rest.
export PATH := $(HOME)/.cargo/bin:$(PATH)
CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help run stop test test-fast fmt lint deny bench-agent bench-backup bench-failover bench-grid bench-memory bench-store storm model image image-test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build Roost and start the demo: one aggregator, three hosts, twelve real guests
	tests/lab/deps.sh
	$(CARGO) build --release --locked -p roost-agent -p roost-guard -p roost-aggregator -p roost-cli
	tests/lab/demo.sh up

stop: ## stop the demo and remove everything it made, also after a crash
	tests/lab/demo.sh down

test: ## all checks and tests, the real ones too where root or sudo works
	tests/lab/test.sh

test-fast: ## the tests that need no root
	$(CARGO) nextest run --workspace --locked

fmt: ## format the code
	$(CARGO) fmt --all

lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

deny: ## licences, sources, bans and advisories of the dependencies (where cargo-deny is installed)
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	else echo "cargo-deny is not installed: cargo install --locked cargo-deny"; fi

image: ## the host image, as root: kernel, initrd and stick image in target/image/full
	tests/lab/deps.sh image
	$(CARGO) build --release --locked -p roost-agent -p roost-guard
	os-image/build

image-test: ## the host image boots in QEMU and joins: from a stick, by network, with answers of each kind, makes a guest, is updated and goes back; an hour
	tests/lab/deps.sh image
	$(CARGO) build --release --locked -p roost-agent -p roost-guard
	mkdir -p target/image/secure-boot
	[ -e target/image/secure-boot/db.crt ] || openssl req -new -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=test/ -keyout target/image/secure-boot/db.key -out target/image/secure-boot/db.crt
	SECURE_BOOT=target/image/secure-boot os-image/build quick
	$(CARGO) build --locked --workspace --bins
	ROOST_REAL=1 ROOST_IMAGE=$(CURDIR)/target/image/quick $(CARGO) nextest run --locked --profile image --workspace

storm: ## storms of faults: the ward for 4 x ROOST_HOURS simulated hours (a million take about four core-hours), then ROOST_STORM_FAULTS on real hosts, as root, ROOST_CROWD guests of one dead host, guests that take 60 % of their memory at once (three, ROOST_SUDDEN times), and a folder for copies that is frozen for ROOST_FROZEN_S
	ROOST_HOURS=$${ROOST_HOURS:-25000} $(CARGO) test --locked -p roost-ward-tests --test simulation -- --nocapture in_a_
	tests/lab/deps.sh test
	$(CARGO) build --locked --workspace --bins
	ROOST_REAL=1 ROOST_STORM_FAULTS=$${ROOST_STORM_FAULTS:-500} $(CARGO) test --locked -p roost-tests --test real_grid -- --nocapture real_storm
	ROOST_REAL=1 ROOST_CROWD=$${ROOST_CROWD:-20} $(CARGO) test --locked -p roost-tests --test real_guard -- --nocapture real_crowd
	ROOST_REAL=1 ROOST_SUDDEN=$${ROOST_SUDDEN:-34} $(CARGO) test --locked -p roost-tests --test real_grid -- --nocapture real_squeezed
	ROOST_REAL=1 ROOST_FROZEN_S=$${ROOST_FROZEN_S:-600} $(CARGO) test --locked -p roost-tests --test real_grid -- --nocapture real_frozen

model: ## the ward exhaustively, further than `make test` looks; minutes to hours
	ROOST_DEEP=1 $(CARGO) test --locked -p roost-ward-tests --test model -- --nocapture

bench-agent: ## an agent with 50 guests: memory, CPU per guest and sample
	$(CARGO) build --release --locked
	$(CARGO) run --release --locked -p roost-benches --bin bench-agent

bench-backup: ## backups of a running guest beside virtnbdbackup and QEMU's job: DATA=folder for the data set, 5 GiB
	benches/data.py "$(DATA)"
	$(CARGO) build --release --locked
	$(CARGO) run --release --locked -p roost-benches --bin bench-backup -- --data "$(DATA)"

bench-failover: ## a host's power cut until its guest runs on another: normal and fast profile, 20 runs each, 13 minutes
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) run --release --locked -p roost-benches --bin bench-failover

bench-grid: ## an aggregator with 2,000 simulated hosts: CPU per sample, memory, operations, latency
	$(CARGO) build --release --locked
	$(CARGO) run --release --locked -p roost-benches --bin bench-grid

bench-memory: ## page sharing of real guests, and how many a host holds, beside ksmtuned and the kernel, as root on a machine whose KSM nobody else uses; 35 minutes
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) run --release --locked -p roost-benches --bin bench-memory

bench-store: ## the chunk store beside borg, restic and qemu-img: DATA=folder for the data set, 5 GiB WORK=folder with 8 GiB of room
	benches/data.py "$(DATA)"
	$(CARGO) run --release --locked -p roost-benches --bin bench-store -- --data "$(DATA)" --work "$(WORK)"
