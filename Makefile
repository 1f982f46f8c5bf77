# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
# A thin network at a small size, from random weights: minutes on a laptop, no download. It shows the
# commands; its scores mean nothing. With ImageNet weights at hand leave out --width and --backbone_weights.
TOY := --dataset synthetic --rows 120 --cols 160 --loss kld --optimizer adam --epochs 6 \
	--weights_dir $(DEMO)/weights --width 0.25 --backbone_weights none

.PHONY: demo test test-slow fuzz lint lock licences audit clean

# every package at the version and with the hash that the lock names
INSTALL := pip install --quiet --disable-pip-version-check --require-hashes

.venv/installed: requirements-dev.lock
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) -r $<
	touch $@

demo: .venv/installed
	$(BIN)/python main.py train $(TOY) --strategies frozen finetuned --output $(DEMO)
	$(BIN)/python examples/write_pictures.py $(DEMO)/pictures
	$(BIN)/python main.py test $(DEMO)/pictures --overlay --weights_dir $(DEMO)/weights \
		--output $(DEMO)/predictions
	$(BIN)/python main.py evaluate --dataset synthetic --weights_dir $(DEMO)/weights \
		--metrics cc,nss,auc_judd --output $(DEMO)/evaluation
	@echo "Look at $(DEMO)/comparison/index.html, $(DEMO)/finetuned-seed0/examples.png and $(DEMO)/predictions/."

# two at a time, a file's tests in one process, since they share what they have trained
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --durations 15 --durations-min 10

test: .venv/installed lint
	$(PYTEST)

test-slow: .venv/installed
	$(PYTEST) -m slow

# 100,000 hostile files a reader: FUZZ_INPUTS=1000 for fewer, FUZZ_READERS="mat npy" for some
fuzz: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow -rA tests/fuzz

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/shellcheck --external-sources batch/*.sh .ci/run

AUDIT := .venv-audit/bin

.venv-audit/installed: requirements-audit.lock
	$(PYTHON) -m venv .venv-audit
	$(AUDIT)/$(INSTALL) -r $<
	touch $@

# After a change of requirements*.txt. What no line of those asks to change keeps its version;
# `make lock UPGRADE=--upgrade` takes the newest of all that they do not name.
LOCK := $(AUDIT)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-build --emit-build-options --custom-compile-command "make lock" $(UPGRADE)
# PyTorch's CPU builds are not on PyPI: where pip is told to look, or else at their own page
CPU_WHEELS ?= $(or $(PIP_FIND_LINKS),https://download.pytorch.org/whl/cpu/torch/)

lock: .venv-audit/installed
	$(LOCK) requirements.txt --output-file requirements.lock
	for part in dev engines backends audit; do \
		$(LOCK) requirements-$$part.txt --constraints requirements.lock \
			--find-links "$(CPU_WHEELS)" --output-file requirements-$$part.lock || exit; \
	done

licences: .venv/installed
	$(BIN)/python .ci/licences.py

# a report: what it finds fails nothing
audit: .venv-audit/installed
	$(AUDIT)/python .ci/audit.py requirements-dev.lock requirements-engines.lock \
		requirements-backends.lock

clean:
	rm -rf .venv .venv-audit runs/demo
