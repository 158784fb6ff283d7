#!/bin/sh
# Makes the libraries of the report from their npm packages, in an empty folder: sh third_party/three/build.sh
# What comes out is committed: a run of vht-track, its installation and its tests need neither npm nor a network.
set -e
here=$(cd "$(dirname "$0")" && pwd)
lib=$here/../../vht_jax/app/report/web/vendor
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y > package.log
npm install --ignore-scripts three@0.187.0 uplot@1.6.32 esbuild@0.28.2
cp "$here/entry.js" .
node_modules/.bin/esbuild entry.js --bundle --minify --format=iife --global-name=THREE --target=es2020 \
  --legal-comments=inline --outfile="$lib/three.min.js"
cp node_modules/uplot/dist/uPlot.iife.min.js "$lib/uplot.min.js"
cp node_modules/uplot/dist/uPlot.min.css "$lib/uplot.min.css"
cp node_modules/three/LICENSE "$here/LICENSE"
cp node_modules/uplot/LICENSE "$here/../uplot/LICENSE"
