# make demo   from a bare clone to a report
# make test   lint, types and tests
# make bench  what the hot parts cost, beside their baselines
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
EXAMPLES := $(wildcard plugins/examples/*)
DEMO   := reports/demo

.PHONY: install demo test lint slow bench sample clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt $(EXAMPLES:=/pyproject.toml)
	@echo "Installing about 6 GB of packages into $(VENV), which takes a minute or more ..."
	command -v $(PYTHON) >/dev/null && $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,parquet,postgres]' $(EXAMPLES:%=-e %)
	touch $@

# The main job on generated images: the paper's three networks from random weights (their ImageNet weights need a
# download), and a network whose ImageNet weights came with its package.
demo: install
	mkdir -p $(DEMO)
	$(BIN)/harness run --plugins efficientnet_lite0,alexnet,googlenet,resnet18 --data phantom \
	    --weights random --weights efficientnet_lite0=imagenet \
	    --set frozen.epochs=5 --set finetune.epochs=1 --db $(DEMO)/benchmark.db
	$(BIN)/harness report --db $(DEMO)/benchmark.db --out $(DEMO)/report

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -m 'not slow' -n auto --dist loadfile

slow: install
	$(BIN)/pytest -m slow

# Each hot part beside its baseline; what people would use instead is benchmarks/peers/compare.py's
bench: install
	$(BIN)/pytest benchmarks -n 0 --benchmark-columns=median,iqr,ops,rounds --benchmark-sort=mean

sample: install
	$(BIN)/harness report --all --db benchmark.db.example --out reports/sample \
	    --experiment "The paper on a GPU"

clean:
	rm -rf $(VENV) build dist reports/demo
